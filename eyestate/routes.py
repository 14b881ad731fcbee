"""The HTTP API: what is answered under which path."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Scope

from eyestate import inference_protocol, metrics, openapi, tracing, uploads
from eyestate.access import ApiKeys
from eyestate.answers import Answers, refusal
from eyestate.batching import Batcher
from eyestate.bundle import load_bundle
from eyestate.edge import Edge, Endpoint, Target
from eyestate.errors import ImageError, MethodNotAllowedError, NotFoundError
from eyestate.execution import cores
from eyestate.images import Pixels, decode, luma, to_input
from eyestate.lifecycle import drained_on_sigterm
from eyestate.schema import LoadedModel, Readiness
from eyestate.scorer import Scorer, Scores
from eyestate.settings import Settings

log = logging.getLogger("eyestate")

_INLINE_BYTES: Final = 64 * 2**10  # images of up to this size together decode faster than a thread starts


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the routes need while the service runs."""

    scorer: Scorer
    batcher: Batcher
    answers: Answers


async def score(request: Request) -> Response:
    """``POST /v1/score``: one image."""
    runtime: Runtime = request.app.state.runtime
    crops, failures = await _decoded(request, [await uploads.single_image(request)])
    if failures:
        raise failures[0]
    scores = await _scored(request, crops)
    return runtime.answers.one(scores.item(), runtime.scorer.state(scores.item()))


async def score_batch(request: Request) -> Response:
    """``POST /v1/score/batch``: many crops; one that cannot be read does not harm the others."""
    runtime: Runtime = request.app.state.runtime
    crops, failures = await _decoded(request, await uploads.many_images(request))
    scores = await _scored(request, crops)
    for failure in failures.values():
        metrics.failed(failure.code)
    return runtime.answers.many(request.headers.get("accept", ""), scores, runtime.scorer.states(scores), failures)


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
    """Any other path under ``/v1``."""
    paths = ", ".join(path for path in _ENDPOINTS if path.startswith("/v1/"))
    raise NotFoundError(f"there is no {request.url.path}; the routes are {paths}")


_ENDPOINTS: Final[dict[str, tuple[str, Endpoint]]] = {
    "/v1/score": ("POST", score),
    "/v1/score/batch": ("POST", score_batch),
    "/readyz": ("GET", readiness),
    "/metrics": ("GET", prometheus),
    "/openapi.json": ("GET", openapi_document),
    "/docs.json": ("GET", openapi_document),
}
_TARGETS: Final = {
    path: Target(endpoint, path, refusal, operational=not path.startswith("/v1/"))
    for path, (_, endpoint) in _ENDPOINTS.items()
}
_UNKNOWN: Final = Target(unknown, "other", refusal)


def serving(settings: Settings) -> Starlette:
    """The application whose lifespan loads the model and scores a first crop; ``edge`` puts its routes before another.

    Raises:
        BundleError, SettingError: at start-up, where the model or the API keys cannot be loaded.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        edge: Edge = app.state.edge
        scorer = Scorer(load_bundle(), settings.device, max(1, cores() // settings.workers))
        batcher = Batcher(scorer.score_parts, side=scorer.side, capacity=settings.queue)
        app.state.runtime = Runtime(scorer, batcher, Answers(scorer.manifest))
        metrics.set_model(scorer.manifest, scorer.device, lambda: batcher.waiting)
        edge.tracing = tracing.configured()
        log.info("ready", extra={"model": scorer.manifest.name, "device": scorer.device, "batch": batcher.batch_size})
        chores = [asyncio.create_task(edge.sweep()), asyncio.create_task(metrics.publish_regularly())]
        with drained_on_sigterm(edge, settings.drain):
            yield
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        batcher.close()
        if edge.tracing:
            edge.tracing.close()

    return Starlette(lifespan=lifespan)


def edge(app: Starlette, otherwise: ASGIApp, settings: Settings) -> Edge:
    """The routes of ``app`` before another ASGI application, which takes all other requests."""
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
        elif path.startswith("/v1/"):
            target = _UNKNOWN
        if target is not None:
            scope["app"] = app
        return target

    app.state.edge = Edge(find, otherwise, timeout=settings.timeout, keys=keys)
    result: Edge = app.state.edge
    return result


def _protocol_target(scope: Scope) -> Target | None:
    for route in inference_protocol.ROUTES:
        match, found = route.matches(scope)
        if match is Match.FULL:
            scope.update(found)
            return Target(
                route.endpoint, route.path, inference_protocol.refusal, operational=route.path.startswith("/v2/health/")
            )
    return None


def _wrong_method(target: Target, method: str) -> Target:
    async def refuse(request: Request) -> Response:
        error = MethodNotAllowedError(f"{target.route} takes {method}, not {request.method}")
        response = target.refusal(error)
        response.headers["Allow"] = method
        return response

    return Target(refuse, target.route, target.refusal, operational=True)


async def _scored(request: Request, crops: Pixels) -> Scores:
    runtime: Runtime = request.app.state.runtime
    with tracing.phase(request.scope, "score"):
        scores = await runtime.batcher.submit(crops)
    metrics.scored(scores)
    return scores


async def _decoded(request: Request, images: Pixels | Sequence[bytes | None]) -> tuple[Pixels, dict[int, ImageError]]:
    """Grey crops of one size, (N, height, width), and what is wrong with the others, by their place."""
    runtime: Runtime = request.app.state.runtime
    started = time.perf_counter()
    size = images.nbytes if isinstance(images, np.ndarray) else sum(len(image or b"") for image in images)
    with tracing.phase(request.scope, "decode"):
        if size <= _INLINE_BYTES:
            crops, failures = _decode(images)
        else:
            crops, failures = await asyncio.to_thread(_decode, images)
        metrics.decoded(time.perf_counter() - started, crops)
        return _of_one_size(crops, runtime.scorer.side), failures


def _decode(images: Pixels | Sequence[bytes | None]) -> tuple[Pixels | list[Pixels], dict[int, ImageError]]:
    if isinstance(images, np.ndarray):
        if images.ndim == 3:
            return images, {}
        n, height, width, _ = images.shape
        return luma(images.reshape(n * height, width, 3)).reshape(n, height, width), {}
    crops, failures = [], {}
    for place, image in enumerate(images):
        try:
            crops.append(decode(image or b""))
        except ImageError as error:
            failures[place] = error
    return crops, failures


def _of_one_size(crops: Pixels | list[Pixels], side: int) -> Pixels:
    if isinstance(crops, np.ndarray):
        return crops
    if len({crop.shape for crop in crops}) > 1:
        crops = [to_input(crop, side) for crop in crops]
    return np.stack(crops) if crops else np.empty((0, side, side), np.uint8)
