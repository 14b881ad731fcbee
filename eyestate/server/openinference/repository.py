"""The model repository extension of the Open Inference Protocol, as Triton has it: index, load and unload.

One model is served at a time, so loading another takes its place, in all workers at once, without a request that fails.
A model is named after its folder among the bundles. Its version may be another than the manifest's name suggests: the
folder ``cascade_2`` may hold the next version of ``cascade``.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from eyestate.bundle import bundles, read_manifest
from eyestate.errors import (
    BundleError,
    EmptyBodyError,
    ForbiddenError,
    InferenceRequestError,
    ModelControlError,
    NotFoundError,
)
from eyestate.media_types import JSON
from eyestate.server import uploads
from eyestate.server.auth import RIGHTS, Rights
from eyestate.server.model_control import ModelControl
from eyestate.server.openinference.schema import IndexRequest, RepositoryModel
from eyestate.server.routing import Route

_MAX_BODY_BYTES: Final = 2**16
_INDEX: Final = TypeAdapter(list[RepositoryModel])


async def index(request: Request) -> Response:
    """``POST /v2/repository/index``: the models that there are, and which one is served."""
    try:
        wanted = IndexRequest.model_validate(await _body(request))
    except ValidationError as error:
        raise InferenceRequestError(f"ready: {error.errors(include_url=False)[0]['msg']}") from None
    served: Path = request.app.state.runtime.bundle.path
    models = await asyncio.to_thread(_models, served)
    listed = [model for model in models if model.state == "READY" or not wanted.ready]
    return Response(_INDEX.dump_json(listed), media_type=JSON)


async def load(request: Request) -> Response:
    """``POST /v2/repository/models/{name}/load``: serve this model in place of the present one, or read it anew."""
    control = _control(request)
    if (await _body(request)).get("parameters"):
        raise InferenceRequestError("models are loaded as they are in the repository, without parameters")
    name = request.path_params["name"]
    path = _paths(request.app.state.runtime.bundle.path).get(name)
    if path is None:
        raise NotFoundError(f"there is no model {name!r} in the repository")
    try:
        await control.load(path)
    except BundleError as error:
        raise ModelControlError(f"{error.message}; the present model is served on") from None
    return Response()


async def unload(request: Request) -> Response:
    """``POST /v2/repository/models/{name}/unload``: nothing to do for any model but the one that is served."""
    _control(request)
    await _body(request)
    name, served = request.path_params["name"], request.app.state.runtime.bundle.path
    if name not in _paths(served):
        raise NotFoundError(f"there is no model {name!r} in the repository")
    if name == served.name:
        raise ModelControlError(f"{name} is the model that is served; load another in its place")
    return Response()


ROUTES: Final = (
    Route("/v2/repository/index", index, "POST"),
    Route("/v2/repository/models/{name}/load", load, "POST"),
    Route("/v2/repository/models/{name}/unload", unload, "POST"),
)


def _control(request: Request) -> ModelControl[Any]:
    """What loads models, for those who may.

    Raises:
        ForbiddenError: nobody may, or not with this key, or not from a page.
    """
    control: ModelControl[Any] | None = request.app.state.model_control
    rights: Rights | None = request.scope.get(RIGHTS)
    if control is None:
        raise ForbiddenError("models are not loaded and unloaded here; EYESTATE_MODEL_CONTROL=true would allow it")
    if rights is not None and not rights.admin:
        raise ForbiddenError("this API key may not load models; write admin=true behind it in the file of the keys")
    if "origin" in request.headers:
        raise ForbiddenError("models are not loaded from pages of a browser")
    return control


def _paths(served: Path) -> dict[str, Path]:
    return bundles() | {served.name: served}


def _models(served: Path) -> list[RepositoryModel]:
    listed = []
    for name, path in sorted(_paths(served).items()):
        ready = path == served
        try:
            version, reason = read_manifest(path).version, "" if ready else "not loaded"
        except BundleError as error:
            version, reason = "", error.message
        listed.append(
            RepositoryModel(name=name, version=version, state="READY" if ready else "UNAVAILABLE", reason=reason)
        )
    return listed


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that was sent; empty where nothing was."""
    try:
        content = from_json(await uploads.body(request, _MAX_BODY_BYTES))
    except EmptyBodyError:
        return {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InferenceRequestError("the body is no JSON object")
    return content
