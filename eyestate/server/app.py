"""The HTTP API: what is answered under which path."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Scope

from eyestate.bundle import load_model
from eyestate.errors import DetectorError, MethodNotAllowedError, NotFoundError, RequestError
from eyestate.execution import cores
from eyestate.faces import Finder
from eyestate.mtcnn import FaceDetector
from eyestate.schema import LoadedModel, Readiness
from eyestate.scorer import open_scorer
from eyestate.server import metrics, openapi, tracing, try_page, uploads
from eyestate.server.auth import ApiKeys
from eyestate.server.batching import Batcher
from eyestate.server.edge import Edge, Endpoint, Target
from eyestate.server.lifecycle import drained_on_sigterm
from eyestate.server.openinference import routes as openinference
from eyestate.server.responses import Answers, refusal
from eyestate.server.runtime import Runtime
from eyestate.settings import Settings

log = logging.getLogger("eyestate")

_PATIENCE: Final = 1 / 6  # part of the timeout that scoring may be expected to take when a request is accepted


async def score(request: Request) -> Response:
    """``POST /v1/score``: one image."""
    runtime: Runtime = request.app.state.runtime
    decoded = await runtime.decode(request.scope, [await uploads.single_image(request)], _wants_quality(request))
    if decoded.failures:
        raise decoded.failures[0]
    probability = (await runtime.score(request.scope, decoded)).item()
    return runtime.answers.one(probability, runtime.scorer.state(probability), decoded.qualities)


async def score_batch(request: Request) -> Response:
    """``POST /v1/score/batch``: many crops; one that cannot be read does not harm the others."""
    runtime: Runtime = request.app.state.runtime
    decoded = await runtime.decode(request.scope, await uploads.many_images(request), _wants_quality(request))
    scores = await runtime.score(request.scope, decoded)
    return runtime.answers.many(
        request.headers.get("accept", ""),
        scores,
        runtime.scorer.states(scores),
        decoded.qualities,
        decoded.failures,
    )


async def faces(request: Request) -> Response:
    """``POST /v1/faces``: one photo; the eyes of the faces in it."""
    runtime: Runtime = request.app.state.runtime
    photo = await uploads.single_image(request, "send each photo in a request of its own")
    found, crops = await runtime.find(request.scope, photo, _wants_quality(request))
    scores = await runtime.score(request.scope, crops)
    return runtime.answers.faces(found, scores, runtime.scorer.states(scores), crops.qualities)


async def readiness(request: Request) -> Response:
    """``GET /readyz``: whether to send requests here, and what answers them."""
    runtime: Runtime = request.app.state.runtime
    draining = request.app.state.edge.draining
    manifest = runtime.scorer.manifest
    answer = Readiness(
        status="draining" if draining else "ready",
        model=LoadedModel(name=manifest.name, version=manifest.version, sha256=manifest.sha256),
        device=runtime.scorer.device,
        waiting=runtime.batcher.waiting,
    )
    return Response(answer.model_dump_json(), 503 if draining else 200, media_type="application/json")


async def prometheus(request: Request) -> Response:
    """``GET /metrics``."""
    return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)


async def openapi_document(request: Request) -> Response:
    """``GET /openapi.json``, and ``/docs.json``, where BentoML's Swagger page at ``/`` looks for it."""
    return Response(openapi.document(), media_type="application/json")


async def unknown(request: Request) -> Response:
    """Any other path."""
    raise NotFoundError(f"there is no {request.scope['path']}; GET / describes what there is")


_ENDPOINTS: Final[dict[str, tuple[str, Endpoint]]] = {
    "/v1/score": ("POST", score),
    "/v1/score/batch": ("POST", score_batch),
    "/v1/faces": ("POST", faces),
    "/readyz": ("GET", readiness),
    "/metrics": ("GET", prometheus),
    "/openapi.json": ("GET", openapi_document),
    "/docs.json": ("GET", openapi_document),
    **dict.fromkeys(try_page.PATHS, ("GET", try_page.page)),
}
_TARGETS: Final = {
    path: Target(endpoint, path, refusal, operational=not path.startswith("/v1/"))
    for path, (_, endpoint) in _ENDPOINTS.items()
}
_UNKNOWN: Final = Target(unknown, "other", refusal)
_BENTOML: Final = frozenset({"/", "/livez", "/healthz", "/schema.json"})  # with /static_content, what BentoML answers


def create_app(settings: Settings) -> Starlette:
    """The application whose lifespan loads the model and scores a first crop; ``wrap`` puts its routes before another.

    Raises:
        BundleError, SettingError: at start-up, where the model or the API keys cannot be loaded.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        edge: Edge = app.state.edge
        scorer = open_scorer(load_model(), settings.device, max(1, cores() // settings.workers))
        batcher = Batcher(
            scorer.score_parts, side=scorer.side, capacity=settings.queue, patience=settings.timeout * _PATIENCE
        )
        finder = _finder(settings)
        app.state.runtime = Runtime(scorer, batcher, Answers(scorer.manifest), finder)
        metrics.set_model(scorer.manifest, scorer.device, lambda: batcher.waiting, lambda: scorer.deferred)
        edge.tracing = tracing.configured()
        log.info("ready", extra={"model": scorer.manifest.name, "device": scorer.device, "batch": batcher.batch_size})
        chores = [asyncio.create_task(edge.sweep()), asyncio.create_task(metrics.publish_regularly())]
        gc.collect()
        gc.freeze()  # a collection need not look at what stays for good, which would stop requests for 0.1 s
        with drained_on_sigterm(edge, settings.drain):
            yield
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        batcher.close()
        if finder:
            finder.close()
        if edge.tracing:
            edge.tracing.close()

    return Starlette(lifespan=lifespan)


def wrap(app: Starlette, otherwise: ASGIApp, settings: Settings) -> Edge:
    """The routes of ``app`` before another ASGI application, which keeps BentoML's own pages."""
    keys = ApiKeys(settings.api_keys_file) if settings.api_keys_file else None

    def find(scope: Scope) -> Target | None:
        path = scope["path"]
        target = _TARGETS.get(path)
        if target is not None:
            method, _ = _ENDPOINTS[path]
            if scope["method"] != method and (method, scope["method"]) != ("GET", "HEAD"):
                target = _wrong_method(target, method)
        elif path.startswith("/v2"):
            target = _protocol_target(scope)
        elif path not in _BENTOML and not path.startswith("/static_content/"):
            target = _UNKNOWN
        if target is not None:
            scope["app"] = app
        return target

    app.state.edge = Edge(find, otherwise, timeout=settings.timeout, keys=keys)
    result: Edge = app.state.edge
    return result


def _finder(settings: Settings) -> Finder | None:
    """What finds faces; None where its files are missing or damaged, for who sends crops can do without."""
    try:
        detector = FaceDetector()
    except DetectorError as error:
        log.warning("no faces will be found: %s", error.message)
        return None
    threads = max(1, cores() // settings.workers)
    return Finder(detector, threads=threads, patience=settings.timeout * _PATIENCE)


def _protocol_target(scope: Scope) -> Target | None:
    for route in openinference.ROUTES:
        match, found = route.matches(scope)
        if match is Match.FULL:
            scope.update(found)
            name = "other" if route.endpoint is openinference.unknown else route.path
            operational = route.path.startswith("/v2/health/")
            return Target(route.endpoint, name, openinference.refusal, operational)
    return None


def _wrong_method(target: Target, method: str) -> Target:
    async def refuse(request: Request) -> Response:
        error = MethodNotAllowedError(f"{target.route} takes {method}, not {request.method}")
        response = target.refusal(error)
        response.headers["Allow"] = method
        return response

    return Target(refuse, target.route, target.refusal, operational=True)


def _wants_quality(request: Request) -> bool:
    """Whether the query asks for the quality of crops.

    Raises:
        RequestError: the parameter is neither true nor false.
    """
    if not request.scope["query_string"]:
        return False
    wanted = request.query_params.get("quality", "false").lower()
    if wanted not in ("true", "false"):
        raise RequestError(f"quality is {wanted!r}; it may be true or false")
    return wanted == "true"
