"""The closest thing to Kubernetes' API server that a test can start: kmock, and what makes kubectl take it for one.

It keeps objects in memory, with discovery, creation, patches and deletion over HTTP, and refuses, as the real one does,
an object of an unknown kind, with a field that does not exist, or in a namespace that is not there. It schedules
nothing and runs no controller.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final
from unittest.mock import patch

import kmock
from aiohttp.web import StreamResponse
from kmock._internal import parsing

from tests.k8s.schemas import CUSTOM, fault

_CUSTOM_RESOURCES: Final = {
    "inferenceservices.v1beta1.serving.kserve.io": "InferenceService",
    "prometheusrules.v1.monitoring.coreos.com": "PrometheusRule",
    "scaledobjects.v1alpha1.keda.sh": "ScaledObject",
    "externalsecrets.v1.external-secrets.io": "ExternalSecret",
    "servicemonitors.v1.monitoring.coreos.com": "ServiceMonitor",
}
_parse_path: Final = parsing.parse_path
_VERBS: Final = {"create", "delete", "get", "list", "patch", "update", "watch"}


class ApiServer(kmock.KubernetesEmulator):
    """kmock with the custom resources' kinds and the checks of an admission."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        bundled = (
            files("kmock._internal") / "resources.json.gz"
        ).read_bytes()  # load_bundled() reads it as is deprecated
        self.resources.load_data(gzip.decompress(bundled))
        for resource, kind in _CUSTOM_RESOURCES.items():
            info = kmock.ResourceInfo(kind=kind, singular=kind.lower(), namespaced=True, verbs=_VERBS)
            self.resources[resource] = info

    async def _serve_version(self, request: kmock.Request) -> Any:
        answer = await super()._serve_version(request)
        assert isinstance(answer, dict)
        return answer | {"groupVersion": answer["groupVersion"].lstrip("/")}  # kmock calls the core group's "/v1"

    async def _handle(self, request: kmock.Request) -> StreamResponse:
        if request.action == kmock.action.CREATE:
            try:
                self._admit(request.data)
            except kmock.KubernetesError as error:
                return await self._render_error(error)
        return await super()._handle(request)

    def _admit(self, manifest: dict[str, Any]) -> None:
        if manifest["kind"] not in CUSTOM and (complaint := fault(manifest)):
            raise kmock.KubernetesError(status=400, reason="BadRequest", message=complaint)
        namespace = manifest["metadata"].get("namespace")
        namespaces = {name for resource, _, name in self.objects if resource.plural == "namespaces"}
        if namespace not in {None, "default", *namespaces}:
            raise kmock.KubernetesError(status=404, reason="NotFound", message=f'namespaces "{namespace}" not found')


def _parsed(path: str) -> parsing.ParsedPath:
    """What a path asks for; kmock by itself takes a namespace for no object of its own."""
    found = re.fullmatch("/api/v1/namespaces(?:/([^/]+))?", path)
    return parsing.ParsedPath("", "v1", "namespaces", None, found[1]) if found else _parse_path(path)


@contextmanager
def api_server() -> Iterator[str]:
    """The address of an API server without objects; it is gone when the block ends."""
    address: Future[str] = Future()
    stopped = threading.Event()

    async def serve() -> None:
        async with ApiServer() as handler, kmock.Server(handler) as server:
            address.set_result(str(server.url))
            await asyncio.to_thread(stopped.wait)

    thread = threading.Thread(target=asyncio.run, args=[serve()])
    with patch.object(parsing, "parse_path", _parsed):
        thread.start()
        try:
            yield address.result(30)
        finally:
            stopped.set()
            thread.join()
