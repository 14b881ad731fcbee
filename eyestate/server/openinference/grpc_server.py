"""The Open Inference Protocol over gRPC, through the same decoding and batching as over HTTP.

A request's tensors are as over REST, with ``images`` as the bytes of the files, and are in ``raw_input_contents`` or in
the ``contents`` of the inputs; the answer has its own in the same place. On a stream, requests are worked for side by
side and answered in their order, and an error ends only its own request. gRPC's health service and reflection are
there, too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from starlette.types import Scope

from eyestate import __version__
from eyestate.arrays import Scores
from eyestate.bundle import Card
from eyestate.errors import (
    DeadlineExceededError,
    EyestateError,
    InferenceRequestError,
    OverloadedError,
    QuotaExceededError,
)
from eyestate.server import metrics
from eyestate.server.connection_limit import MAX_CONNECTIONS
from eyestate.server.edge import CLIENT_CLOSED_REQUEST, Edge
from eyestate.server.openinference import messages, tensors, wire
from eyestate.server.openinference.description import INPUTS, OUTPUTS, PLATFORM, check_model
from eyestate.server.openinference.schema import InferenceRequest
from eyestate.server.runtime import Runtime
from eyestate.server.uploads import MAX_BODY_BYTES

log = logging.getLogger("eyestate.requests")

_ON_STREAM: Final = 64  # requests of a stream that are worked for at a time
_DRAIN_CHECK_SECONDS: Final = 0.1
_OPERATIONAL: Final = ("ServerLive", "ServerReady")  # for whom no key is needed
_LAST_SECONDS: Final = 5.0  # for calls in flight when the server stops
_MAX_SHAPE: Final = 5  # numbers of a shape that are looked at, one more than any shape may have
_MAX_ID: Final = 1_024  # characters of a request's id, which waits with its answer
_MAX_REASON: Final = 500  # characters of an error's message: clients take no more than 8 KiB of metadata
_MAX_CALLS: Final = 4_096  # open at a time, most of them idle streams
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_BODY_BYTES),
    ("grpc.so_reuseport", 1),  # for the workers, which all listen on the same port
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS // 4),  # so that files are left for those of HTTP
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.keepalive_time_ms", 60_000),  # after which a silent client is asked whether it is still there,
    ("grpc.keepalive_timeout_ms", 20_000),  # and how long it may take to say so
    ("grpc.keepalive_permit_without_calls", 1),
)
# By the HTTP status of an error; what is not here is the caller's mistake below 500, and the service's from there.
_CODES: Final = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

Call = Callable[[Any, Scope], Awaitable[Any]]


class GrpcServer:
    """Listens for gRPC beside the HTTP server of this process."""

    def __init__(self, runtime: Callable[[], Runtime], edge: Edge, addresses: Sequence[str], timeout: float) -> None:
        """Args:
        runtime: returns what answers a request.
        edge: says who is let in, and when the service stops.
        addresses: to listen on, such as ``127.0.0.1:3001``.
        timeout: seconds until a request is given up.

        Raises:
            RuntimeError: an address cannot be listened on.
        """
        self._runtime = runtime
        self._edge = edge
        self._timeout = timeout
        self._health = health.aio.HealthServicer()
        self._draining: asyncio.Task[None] | None = None
        self._server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_MAX_CALLS)
        self._server.add_generic_rpc_handlers([_Methods(self._handlers(), self._refusals(), edge)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (messages.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server, pool=_AllMessages()
        )
        for address in addresses:
            self._server.add_insecure_port(address)
        logging.getLogger("grpc._cython.cygrpc").addFilter(_is_ours)

    async def start(self) -> None:
        """Take calls, and tell gRPC's health checks so."""
        for name in ("", messages.SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        self._draining = asyncio.create_task(self._report_draining())

    async def stop(self) -> None:
        """Finish the calls in flight, and take no more."""
        if self._draining:
            self._draining.cancel()
        await self._server.stop(_LAST_SECONDS)

    async def _report_draining(self) -> None:
        while not self._edge.draining:
            await asyncio.sleep(_DRAIN_CHECK_SECONDS)
        await self._health.enter_graceful_shutdown()

    def _calls(self) -> dict[str, Call]:
        return {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
            "ModelStreamInfer": self._infer,
        }

    def _handlers(self) -> dict[str, Any]:
        handlers = {}
        for method, call in self._calls().items():
            _, answer, streams = messages.METHODS[method]
            written = messages.message(answer).SerializeToString
            if streams:
                handlers[method] = grpc.stream_stream_rpc_method_handler(self._stream, response_serializer=written)
            else:
                work = partial(self._unary, method, call)
                handlers[method] = grpc.unary_unary_rpc_method_handler(work, response_serializer=written)
        return handlers

    def _refusals(self) -> dict[str, Any]:
        """What takes the place of the methods that need a key where it is missing: they do not wait for a message."""

        async def refuse(method: str, _: AsyncIterator[bytes], context: Any) -> None:
            await self._unary(method, self._calls()[method], b"", context)

        return {
            method: grpc.stream_stream_rpc_method_handler(partial(refuse, method))
            for method in messages.METHODS
            if method not in _OPERATIONAL
        }

    async def _unary(self, method: str, call: Call, data: bytes, context: Any) -> Any:
        try:
            return await self._worked_for(method, call, data, context)
        except EyestateError as error:
            trailing = (("retry-after", str(error.retry_after)),) if isinstance(error, OverloadedError) else ()
            await context.abort(_code(error), _reason(error), trailing)

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        room = asyncio.Semaphore(_ON_STREAM)
        waiting: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()

        async def take() -> None:
            try:
                async for data in requests:
                    await room.acquire()
                    waiting.put_nowait(asyncio.create_task(self._streamed(data, context)))
            finally:
                waiting.put_nowait(None)

        taking = asyncio.create_task(take())
        try:
            while (answer := await waiting.get()) is not None:
                answered = await answer
                async with asyncio.timeout(self._timeout):
                    await context.write(answered)
                room.release()
        except TimeoutError:
            reason = f"the client did not read its answers for {self._timeout:g} s"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, reason)
        finally:
            taking.cancel()
            while not waiting.empty():
                if task := waiting.get_nowait():
                    task.cancel()

    async def _streamed(self, data: bytes, context: Any) -> Any:
        form = messages.message("ModelStreamInferResponse")
        try:
            return form(infer_response=await self._worked_for("ModelStreamInfer", self._infer, data, context))
        except EyestateError as error:
            answer = form(error_message=_reason(error))
            with suppress(EyestateError):
                answer.infer_response.id = wire.read(messages.message("ModelInferRequest"), data).id[:_MAX_ID]
            return answer

    async def _worked_for(self, method: str, call: Call, data: bytes, context: Any) -> Any:
        """The answer to a request, which is counted and timed whatever becomes of it.

        Raises:
            EyestateError: what the request has instead of an answer.
        """
        started = time.perf_counter()
        route = f"{messages.SERVICE}/{method}"
        form = messages.message(messages.METHODS[method][0])
        status = CLIENT_CLOSED_REQUEST
        try:
            async with asyncio.timeout(self._timeout):
                if method in _OPERATIONAL:
                    answer = await call(wire.read(form, data), {})
                else:
                    with self._edge.admitted(*_caller(context), size=len(data)) as scope:
                        answer = await call(wire.read(form, data), scope)
            status = 200
            return answer
        except TimeoutError:
            status = DeadlineExceededError.status
            raise DeadlineExceededError(f"there was no answer within {self._timeout:g} s") from None
        except EyestateError as error:
            status = error.status
            metrics.rejected(error.code)
            if isinstance(error, QuotaExceededError):
                metrics.over_quota(route)
            raise
        except Exception:
            status = EyestateError.status
            log.exception("the request failed", extra={"route": route})
            raise EyestateError("the service failed on this request; its log says why") from None
        finally:
            metrics.request_done(route, status, 0, time.perf_counter() - started)

    async def _server_live(self, _: Any, __: Scope) -> Any:
        return messages.message("ServerLiveResponse")(live=True)

    async def _server_ready(self, _: Any, __: Scope) -> Any:
        return messages.message("ServerReadyResponse")(ready=not self._edge.draining)

    async def _model_ready(self, request: Any, _: Scope) -> Any:
        self._manifest(request.name, request.version)
        return messages.message("ModelReadyResponse")(ready=not self._edge.draining)

    async def _server_metadata(self, _: Any, __: Scope) -> Any:
        return messages.message("ServerMetadataResponse")(name="eyestate", version=__version__)

    async def _model_metadata(self, request: Any, _: Scope) -> Any:
        manifest = self._manifest(request.name, request.version)
        return messages.message("ModelMetadataResponse")(
            name=manifest.name,
            versions=[manifest.version],
            platform=PLATFORM,
            inputs=[tensor.model_dump() for tensor in INPUTS],
            outputs=[tensor.model_dump() for tensor in OUTPUTS],
        )

    async def _infer(self, request: Any, scope: Scope) -> Any:
        runtime = self._runtime()
        manifest = self._manifest(request.model_name, request.model_version)
        asked, inputs = _read(request)
        scores = await _scores(runtime, scope, inputs)
        return _written(request, asked, manifest, scores, runtime)

    def _manifest(self, name: str, version: str) -> Card:
        manifest = self._runtime().scorer.manifest
        check_model(manifest, name, version or manifest.version)
        return manifest


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """The methods of the protocol. Callers without a key are refused before they send a message, which takes memory."""

    def __init__(self, handlers: dict[str, Any], refusals: dict[str, Any], edge: Edge) -> None:
        self._handlers = handlers
        self._refusals = refusals
        self._edge = edge

    def service(self, call: Any) -> Any:
        """What handles a call, None if it is for another service."""
        service, _, method = call.method.removeprefix("/").partition("/")
        if service != messages.SERVICE:
            return None
        keys = self._edge.keys
        if keys and method in self._refusals and not keys.accept(_key(call.invocation_metadata)):
            return self._refusals[method]
        return self._handlers.get(method)


async def _scores(runtime: Runtime, scope: Scope, inputs: Sequence[tensors.Content]) -> Scores:
    crops = []
    for images in inputs:
        decoded = await runtime.decode(scope, images)
        for place, error in decoded.failures.items():
            raise type(error)(f"element {place} of 'images': {error.message}")
        crops.append(decoded)
    return np.concatenate([await runtime.score(scope, part) for part in crops])


def _read(request: Any) -> tuple[InferenceRequest, list[tensors.Content]]:
    """As ``tensors.read``, from a message.

    Raises:
        RequestError, ImageError: as there.
    """
    if len(request.id) > _MAX_ID:
        raise InferenceRequestError(f"the id has {len(request.id):,} characters; at most {_MAX_ID:,} are accepted")
    asked = tensors.validated(
        {
            "id": request.id or None,
            "inputs": [
                {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape[:_MAX_SHAPE]}
                for tensor in request.inputs
            ],
            "outputs": [{"name": output.name} for output in request.outputs],
        }
    )
    raw = request.raw_input_contents
    if raw and len(raw) != len(asked.inputs):
        raise InferenceRequestError(f"there are {len(asked.inputs)} inputs, but {len(raw)} raw_input_contents")
    found: list[tensors.Content] = []
    for place, tensor in enumerate(asked.inputs):
        contents = request.inputs[place].contents
        if tensor.name == "crops":
            found.append(tensors.pixels(tensor.shape, raw[place] if raw else wire.octets(contents)))
        else:
            images = tensors.elements(memoryview(raw[place])) if raw else list(contents.bytes_contents)
            found.append(tensors.files(tensor.shape, images))
    return asked, found


def _written(request: Any, asked: InferenceRequest, manifest: Card, scores: Scores, runtime: Runtime) -> Any:
    states = runtime.scorer.states(scores)
    answer = messages.message("ModelInferResponse")(
        model_name=manifest.name, model_version=manifest.version, id=request.id
    )
    for wanted in asked.outputs or tensors.ALL_OUTPUTS:
        is_score = wanted.name == "score"
        output = answer.outputs.add(name=wanted.name, datatype="FP32" if is_score else "BYTES", shape=[len(scores)])
        if request.raw_input_contents:
            answer.raw_output_contents.append(
                tensors.binary_scores(scores) if is_score else tensors.binary_states(states)
            )
        elif is_score:
            output.contents.fp32_contents.extend(scores.tolist())
        else:
            output.contents.bytes_contents.extend(state.encode() for state in states)
    return answer


def _caller(context: Any) -> tuple[str, bytes]:
    """The address of a caller, as HTTP has it, and its API key."""
    address = unquote(context.peer().partition(":")[2].rpartition(":")[0])
    return address.strip("[]"), _key(context.invocation_metadata())


def _key(metadata: Any) -> bytes:
    """The API key in metadata, as in the headers of HTTP."""
    key = b""
    for name, value in metadata or ():
        text = value if isinstance(value, bytes) else value.encode()
        if name == "x-api-key":
            key = text
        elif name == "authorization" and text[:7].lower() == b"bearer ":
            key = text[7:].strip()
    return key


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether what gRPC logs is a fault of this process, and no damaged message to its own services."""
    return not (record.exc_info and isinstance(record.exc_info[1], DecodeError))


def _reason(error: EyestateError) -> str:
    message = error.message
    return message if len(message) <= _MAX_REASON else f"{message[:_MAX_REASON]} …"


def _code(error: EyestateError) -> grpc.StatusCode:
    if code := _CODES.get(error.status):
        return code
    return grpc.StatusCode.INVALID_ARGUMENT if error.status < 500 else grpc.StatusCode.INTERNAL


class _AllMessages:
    """The messages of this service and of gRPC's own, which are in different pools, for reflection."""

    def __getattr__(self, find: str) -> Callable[[str], Any]:
        def found(name: str) -> Any:
            try:
                return getattr(messages.POOL, find)(name)
            except KeyError:
                return getattr(health_pb2.DESCRIPTOR.pool, find)(name)

        return found
