"""The HTTP application: its routes, and what it sets up at startup and tears down at shutdown."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from eyestate import drift_reference
from eyestate.bundle import Bundle, CascadeBundle, load_model
from eyestate.errors import DetectorError, RequestError, UpgradeRequiredError
from eyestate.execution import cores
from eyestate.media_types import JSON
from eyestate.mtcnn import FaceDetector
from eyestate.schema import LoadedModel, Readiness
from eyestate.scorer import open_scorer
from eyestate.server import cors, handshake, memory, openapi, pages, processes, tracing, uploads
from eyestate.server.auth import ApiKeys
from eyestate.server.batching import open_batcher
from eyestate.server.edge import Edge
from eyestate.server.face_pool import FacePool
from eyestate.server.fast_path import FastPath
from eyestate.server.hosts import listening_addresses
from eyestate.server.lifecycle import graceful_shutdown
from eyestate.server.metrics import CONTENT_TYPE, Monitor
from eyestate.server.model_control import ModelControl
from eyestate.server.openinference import routes as openinference
from eyestate.server.responses import ResponseWriter, error_response
from eyestate.server.routing import Api, Route, RoutingTable, Target
from eyestate.server.runtime import Runtime
from eyestate.server.shadow import Shadow
from eyestate.settings import Settings

if TYPE_CHECKING:
    from eyestate.server.openinference.grpc_server import GrpcServer

log = logging.getLogger("eyestate")

_MAX_QUERY_BYTES: Final = 2_048  # 60 KB would take 20 ms to parse
_MIN_THREADS: Final = 4  # that parse bodies and decode images
# Until a thread that runs Python gives way to the event loop. With Python's 5 ms a small request would wait so long at
# each of its steps beside the decoding of a large one.
_SWITCH_SECONDS: Final = 0.0005
_MAX_WAIT_SHARE: Final = 1 / 6  # of the timeout: the longest wait that an accepted request may expect

Result = TypeVar("Result")


async def score(request: Request) -> Response:
    """``POST /v1/score``: one image."""
    runtime: Runtime = request.app.state.runtime
    decoded = await runtime.decode(request.scope, [await uploads.single_image(request)], _wants(request, "quality"))
    if decoded.failures:
        raise decoded.failures.pop(0)  # which would hold itself
    probability = (await runtime.score(request.scope, decoded)).item()
    return runtime.responses.one(probability, runtime.scorer.state(probability), decoded.qualities)


async def score_batch(request: Request) -> Response:
    """``POST /v1/score/batch``: many crops; a crop that cannot be read does not affect the others."""
    runtime: Runtime = request.app.state.runtime
    decoded = await runtime.decode(request.scope, await uploads.many_images(request), _wants(request, "quality"))
    scores = await runtime.score(request.scope, decoded)
    return runtime.responses.many(
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
    scored = await runtime.photo(
        request.scope, photo, with_quality=_wants(request, "quality"), with_verdict=_wants(request, "verdict")
    )
    return runtime.responses.faces(scored)


async def faces_best(request: Request) -> Response:
    """``POST /v1/faces/best``: several photos of the same people; which one to keep."""
    runtime: Runtime = request.app.state.runtime
    return runtime.responses.best(await runtime.burst(request.scope, await uploads.burst(request)))


async def stream(request: Request) -> Response:
    """``GET /v1/stream`` that is no valid handshake; one that is never becomes a request."""
    raise UpgradeRequiredError("a stream is a WebSocket: connect with a client for ws:// or wss:// (RFC 6455)")


async def liveness(request: Request) -> Response:
    """``GET /livez`` and, for what asks for it by its older name, ``/healthz``: the process runs."""
    return Response("ok\n", media_type="text/plain")


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
    return Response(answer.model_dump_json(), 503 if draining else 200, media_type=JSON)


async def prometheus(request: Request) -> Response:
    """``GET /metrics``."""
    runtime: Runtime = request.app.state.runtime
    return Response(await runtime.monitor.exposition(), media_type=CONTENT_TYPE)


async def openapi_document(request: Request) -> Response:
    """``GET /openapi.json``."""
    return Response(openapi.document(), media_type=JSON)


_API: Final = Api(
    prefix="",
    routes=(
        Route("/v1/score", score, "POST"),
        Route("/v1/score/batch", score_batch, "POST"),
        Route("/v1/faces", faces, "POST"),
        Route("/v1/faces/best", faces_best, "POST"),
        Route(handshake.PATH, stream),
        Route("/livez", liveness, operational=True),
        Route("/healthz", liveness, operational=True),
        Route("/readyz", readiness, operational=True),
        Route("/metrics", prometheus, operational=True),
        Route("/openapi.json", openapi_document, operational=True),
        *(Route(path, pages.page, operational=True) for path in pages.PATHS),
    ),
    error_form=error_response,
    hint="GET / describes what there is",
)
_ROUTES: Final = RoutingTable(openinference.API, _API)
_SCORE: Final = Target(score, "/v1/score", error_response)


def create_app(settings: Settings, model: Bundle | CascadeBundle) -> Starlette:
    """The application, whose lifespan loads the model and scores a first crop; ``wrap`` puts its routes to work.

    Raises:
        BundleError: at startup, if the model cannot be loaded.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        edge: Edge = app.state.edge
        memory.return_large_blocks()
        sys.setswitchinterval(_SWITCH_SECONDS)
        asyncio.get_running_loop().set_default_executor(_body_threads(settings))
        async with AsyncExitStack() as stack:
            monitor = Monitor(drift_reference.load(settings.drift_reference) if settings.drift_reference else None)
            face_pool, shadow = _face_pool(settings), _shadow(settings)
            for optional in (face_pool, shadow):
                if optional:
                    stack.callback(optional.close)
            edge.tracing = tracing.configured()
            if edge.tracing:
                stack.callback(edge.tracing.close)
            opened = partial(_opened, settings=settings, monitor=monitor, face_pool=face_pool, shadow=shadow)
            serve = partial(_serve, app, monitor)
            control = _model_control(settings, model, opened, serve) if settings.model_control else None
            app.state.model_control = control
            serve(opened(control.model if control else model))

            @stack.callback
            def close_batcher() -> None:
                app.state.runtime.batcher.close()  # of the model that is served last

            monitor.ready()
            work = [
                edge.enforce_deadlines(),
                monitor.publish_regularly(),
                memory.return_regularly(face_pool.detector.return_memory if face_pool else int),
                *([control.follow()] if control else []),
            ]
            stack.push_async_callback(_cancel, [_in_background(each) for each in work])
            if settings.grpc_port:
                stack.push_async_callback((await _start_grpc(app, settings)).stop)
            gc.collect()
            gc.freeze()  # exempt what stays for good from collections, which would stop requests for 0.1 s
            with graceful_shutdown(edge, settings.drain):
                yield

    return Starlette(lifespan=lifespan)


def wrap(app: Starlette, fallback: ASGIApp, settings: Settings) -> ASGIApp:
    """Put the routes of ``app`` in front of another ASGI application, which is left with the events of its lifespan.

    Raises:
        SettingError: the API keys cannot be loaded.
    """
    keys = ApiKeys(settings.api_keys_file, settings.workers) if settings.api_keys_file else None

    def find(scope: Scope) -> Target | None:
        scope["app"] = app
        if scope["method"] == "OPTIONS" and sharing and (target := sharing.preflight(scope)):
            return target
        return _ROUTES.find(scope)

    streams: ASGIApp | None = None

    async def others(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal streams
        if scope["type"] != "websocket":
            await fallback(scope, receive, send)
            return
        if streams is None:
            from eyestate.server.streams import Streams  # noqa: PLC0415  # not loaded where nobody opens a stream

            streams = Streams(edge, lambda: app.state.runtime, settings.streams, settings.allowed_origins)
        await streams(scope, receive, send)

    edge = Edge(find, others, timeout=settings.timeout, keys=keys)
    app.state.edge = edge
    # Answers that pages of other sites may read are marked as such, which the fast path does not do.
    app.state.fast_path = None if settings.allowed_origins else FastPath(edge, _SCORE)
    sharing = cors.Sharing(edge, settings.allowed_origins) if settings.allowed_origins else None
    return sharing or edge


def _body_threads(settings: Settings) -> ThreadPoolExecutor:
    """Threads for this worker's share of the cores; by default there would be one for each core of the machine."""
    threads = max(_MIN_THREADS, cores() // settings.workers)
    return ThreadPoolExecutor(threads, thread_name_prefix="bodies", initializer=processes.step_back)


def _opened(
    bundle: Bundle | CascadeBundle,
    *,
    settings: Settings,
    monitor: Monitor,
    face_pool: FacePool | None,
    shadow: Shadow | None,
) -> Runtime:
    """A model that is loaded, compiled and has scored a first crop."""
    scorer = open_scorer(bundle, settings.device, max(1, cores() // settings.workers))
    batcher = open_batcher(scorer, capacity=settings.queue, max_wait=settings.timeout * _MAX_WAIT_SHARE)
    return Runtime(bundle, scorer, batcher, monitor, ResponseWriter(scorer.manifest), face_pool, shadow)


def _serve(app: Starlette, monitor: Monitor, runtime: Runtime) -> None:
    """Answer requests with a model from now on.

    What is in flight ends with the one that it began with, which goes when the last of it has.
    """
    scorer, batcher = runtime.scorer, runtime.batcher
    monitor.watch(scorer.manifest, scorer.device, lambda: batcher.waiting, lambda: scorer.deferred)
    app.state.runtime = runtime
    if app.state.fast_path:
        app.state.fast_path.runtime = runtime
    log.info("ready", extra={"model": scorer.manifest.name, "device": scorer.device, "batch": batcher.batch_size})


def _model_control(
    settings: Settings,
    model: Bundle | CascadeBundle,
    opened: Callable[[Bundle | CascadeBundle], Runtime],
    serve: Callable[[Runtime], None],
) -> ModelControl[Runtime]:
    """What exchanges the model for another while the service runs."""
    return ModelControl(
        Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]),  # which each service has of its own
        settings.workers,
        model,
        open_model=lambda bundle: _in_own_thread(partial(opened, bundle)),
        serve=serve,
    )


async def _in_own_thread(work: Callable[[], Result]) -> Result:
    """What ``work`` returns, in a thread that has not stepped back, as threads of bodies have.

    The threads in which a session computes inherit the priority of the one that opens it.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="opening")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
    finally:
        thread.shutdown(wait=False)


def _in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run until cancelled; an error, of which nobody else would hear, is logged."""
    task = asyncio.create_task(work)
    task.add_done_callback(_tell_of_failure)
    return task


def _tell_of_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("work in the background has failed", exc_info=error)


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _start_grpc(app: Starlette, settings: Settings) -> GrpcServer:
    """The gRPC server of this process, on the addresses of its HTTP server."""
    from eyestate.server.openinference.grpc_server import GrpcServer  # noqa: PLC0415  # 14 MB that few need

    addresses = [f"[{address}]" if ":" in address else address for address in listening_addresses()]
    server = GrpcServer(
        lambda: app.state.runtime,
        app.state.edge,
        [f"{address}:{settings.grpc_port}" for address in addresses or ["127.0.0.1"]],
        settings.timeout,
    )
    await server.start()
    return server


def _face_pool(settings: Settings) -> FacePool | None:
    """The pool of face detectors; None where the detector's files are missing or damaged: crops are scored without."""
    try:
        detector = FaceDetector()
    except DetectorError as error:
        log.warning("faces cannot be detected: %s", error.message)
        return None
    threads = max(1, cores() // settings.workers)
    return FacePool(detector, threads=threads, max_wait=settings.timeout * _MAX_WAIT_SHARE)


def _shadow(settings: Settings) -> Shadow | None:
    """The model that scores crops unseen, where one is set."""
    if settings.shadow_model is None:
        return None
    return Shadow(load_model(settings.shadow_model), settings.shadow_share, settings.device)


def _wants(request: Request, parameter: str) -> bool:
    """Whether the query asks for something that is left out otherwise, such as the quality of crops.

    Raises:
        RequestError: the parameter is neither true nor false, or the query far too long.
    """
    query = request.scope["query_string"]
    if not query:
        return False
    if len(query) > _MAX_QUERY_BYTES:
        raise RequestError(f"the query is over the limit of {_MAX_QUERY_BYTES:,} bytes")
    wanted = request.query_params.get(parameter, "false").lower()
    if wanted not in ("true", "false"):
        raise RequestError(f"{parameter} is {wanted!r}; it may be true or false")
    return wanted == "true"
