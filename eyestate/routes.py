"""The HTTP API as a Starlette application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from eyestate import metrics, openapi, uploads
from eyestate.batching import Batcher
from eyestate.errors import EyestateError, ImageError, MethodNotAllowedError, NotFoundError
from eyestate.images import Pixels, decode, to_input
from eyestate.schema import BatchAnswer, ErrorAnswer, ErrorDetail, ModelInfo, ScoreAnswer, Verdict
from eyestate.scorer import Scorer, load

QUEUE_CAPACITY: Final = 4 * uploads.MAX_IMAGES
_INLINE_BYTES: Final = 16 * 2**10  # files up to this size decode faster than a thread starts


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the routes need while the service runs."""

    scorer: Scorer
    batcher: Batcher
    model: ModelInfo


async def score(request: Request) -> Response:
    """``POST /v1/score``: one image."""
    runtime: Runtime = request.app.state.runtime
    (crop,) = await _decoded([await uploads.single_image(request)], runtime.scorer.side)
    if isinstance(crop, ImageError):
        raise crop
    (verdict,) = await _verdicts([crop], runtime)
    return _json(ScoreAnswer(score=verdict.score, state=verdict.state, model=runtime.model))


async def score_batch(request: Request) -> Response:
    """``POST /v1/score/batch``: many images; one that cannot be read does not harm the others."""
    runtime: Runtime = request.app.state.runtime
    crops = await _decoded(await uploads.many_images(request), runtime.scorer.side)
    verdicts = iter(await _verdicts([crop for crop in crops if not isinstance(crop, ImageError)], runtime))
    results = [_error_answer(crop) if isinstance(crop, ImageError) else next(verdicts) for crop in crops]
    return _json(BatchAnswer(results=results, model=runtime.model))


async def prometheus(request: Request) -> Response:
    """``GET /metrics``."""
    return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)


async def openapi_document(request: Request) -> Response:
    """``GET /openapi.json``, and ``/docs.json``, where BentoML's Swagger page at ``/`` looks for it."""
    return Response(openapi.document(), media_type="application/json")


async def unknown(request: Request) -> Response:
    """Any other path or method under ``/v1``."""
    if request.url.path in _METHODS:
        return await _refuse_method(request, HTTPException(405))
    raise NotFoundError(f"there is no {request.url.path}; the routes are {', '.join(_METHODS)}")


def app() -> Starlette:
    """The application; it loads the model and scores a first crop before it takes requests.

    Raises:
        BundleError: at start-up, where the model cannot be loaded.
    """
    return Starlette(
        routes=[
            *(Route(path, _ROUTES[path], methods=[method]) for path, method in _METHODS.items()),
            Route("/openapi.json", openapi_document),
            Route("/docs.json", openapi_document),
            Route("/v1/{path:path}", unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        ],
        middleware=[Middleware(metrics.RequestMetrics, routes=_METHODS)],
        exception_handlers={
            EyestateError: _refuse,
            405: _refuse_method,
            ClientDisconnect: _give_up,
            Exception: _fail,
        },
        lifespan=_lifespan,
    )


_ROUTES: Final = {"/v1/score": score, "/v1/score/batch": score_batch, "/metrics": prometheus}
_METHODS: Final = {"/v1/score": "POST", "/v1/score/batch": "POST", "/metrics": "GET"}


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    scorer = load()
    scorer.score_inputs([np.zeros((scorer.side, scorer.side), np.uint8)])
    manifest = scorer.manifest
    metrics.set_model(manifest)
    batcher = Batcher(metrics.timed(scorer.score_inputs), capacity=QUEUE_CAPACITY)
    app.state.runtime = Runtime(scorer, batcher, ModelInfo(name=manifest.name, version=manifest.version))
    scoring = asyncio.create_task(batcher.run())
    yield
    scoring.cancel()
    with suppress(asyncio.CancelledError):
        await scoring


async def _decoded(images: Sequence[bytes], side: int) -> list[Pixels | ImageError]:
    """Each image as model input, or what is wrong with it."""
    if sum(map(len, images)) <= _INLINE_BYTES:
        return [_decode_one(image, side) for image in images]
    return await asyncio.to_thread(lambda: [_decode_one(image, side) for image in images])


def _decode_one(image: bytes, side: int) -> Pixels | ImageError:
    try:
        return to_input(decode(image), side)
    except ImageError as error:
        return error


async def _verdicts(crops: Sequence[Pixels], runtime: Runtime) -> list[Verdict]:
    scores = await runtime.batcher.submit(crops)
    verdicts = [Verdict(score=round(score, 6), state=runtime.scorer.state(score)) for score in scores]
    metrics.count_states(verdict.state for verdict in verdicts)
    return verdicts


def _json(answer: BaseModel, status: int = 200) -> Response:
    return Response(answer.model_dump_json(), status, media_type="application/json")


def _error_answer(error: EyestateError) -> ErrorAnswer:
    return ErrorAnswer(error=ErrorDetail(code=error.code, message=error.message))


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, EyestateError)
    return _json(_error_answer(error), error.status)


async def _refuse_method(request: Request, error: Exception) -> Response:
    method = _METHODS.get(request.url.path, "GET")
    response = await _refuse(request, MethodNotAllowedError(f"{request.url.path} takes {method}, not {request.method}"))
    response.headers["Allow"] = method
    return response


async def _give_up(request: Request, error: Exception) -> Response:
    """The client left before its body was complete; nobody reads this answer but the metrics."""
    return Response(status_code=499)  # nginx's "client closed request"


async def _fail(request: Request, error: Exception) -> Response:
    """An error of ours: told in a word, logged in full by the server."""
    return await _refuse(request, EyestateError("the service failed on this request; its log says why"))
