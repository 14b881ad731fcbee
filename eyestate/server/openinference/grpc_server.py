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
from functools import partial
from typing import Any, Final

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
from eyestate.server.edge import CLIENT_CLOSED_REQUEST, Edge
from eyestate.server.openinference import messages, tensors
from eyestate.server.openinference.description import INPUTS, OUTPUTS, PLATFORM, check_model
from eyestate.server.openinference.schema import InferenceRequest
from eyestate.server.runtime import Runtime
from eyestate.server.uploads import MAX_BODY_BYTES

log = logging.getLogger("eyestate.requests")

_ON_STREAM: Final = 64  # requests of a stream that are worked for at a time
_DRAIN_CHECK_SECONDS: Final = 0.1
_LAST_SECONDS: Final = 5.0  # for calls in flight when the server stops
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_BODY_BYTES),
    ("grpc.so_reuseport", 1),  # for the workers, which all listen on the same port
)
# By the HTTP status of an error; what is not here is the caller's mistake below 500, and the service's from there.
_CODES: Final = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

Call = Callable[[Any, Any], Awaitable[Any]]


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
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers([self._handlers()])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (messages.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server, pool=_AllMessages()
        )
        for address in addresses:
            self._server.add_insecure_port(address)

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

    def _handlers(self) -> Any:
        calls: dict[str, Call] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        handlers = {}
        for method, (request, answer, streams) in messages.METHODS.items():
            forms = {
                "request_deserializer": partial(_parsed, messages.message(request)),
                "response_serializer": messages.message(answer).SerializeToString,
            }
            if streams:
                handlers[method] = grpc.stream_stream_rpc_method_handler(self._stream, **forms)
            else:
                handlers[method] = grpc.unary_unary_rpc_method_handler(self._unary(method, calls[method]), **forms)
        return grpc.method_handlers_generic_handler(messages.SERVICE, handlers)

    def _unary(self, method: str, call: Call) -> Call:
        async def answer(request: Any, context: Any) -> Any:
            try:
                return await self._worked_for(method, call, request, context)
            except EyestateError as error:
                trailing = (("retry-after", str(error.retry_after)),) if isinstance(error, OverloadedError) else ()
                await context.abort(_code(error), error.message, trailing)

        return answer

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        waiting: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(_ON_STREAM)

        async def take() -> None:
            async for request in requests:
                await waiting.put(asyncio.create_task(self._streamed(request, context)))
            await waiting.put(None)

        taking = asyncio.create_task(take())
        try:
            while (answer := await waiting.get()) is not None:
                yield await answer
        finally:
            taking.cancel()
            while not waiting.empty():
                if answer := waiting.get_nowait():
                    answer.cancel()

    async def _streamed(self, request: Any, context: Any) -> Any:
        form = messages.message("ModelStreamInferResponse")
        try:
            return form(infer_response=await self._worked_for("ModelStreamInfer", self._infer, request, context))
        except EyestateError as error:
            answer = form(error_message=error.message)
            if request is not None:
                answer.infer_response.id = request.id
            return answer

    async def _worked_for(self, method: str, call: Call, request: Any, context: Any) -> Any:
        """The answer to a request, which is counted and timed whatever becomes of it.

        Raises:
            EyestateError: what the request has instead of an answer.
        """
        started = time.perf_counter()
        route = f"{messages.SERVICE}/{method}"
        status = CLIENT_CLOSED_REQUEST
        try:
            if request is None:
                raise InferenceRequestError("the message cannot be parsed; it is none of the protocol's")
            async with asyncio.timeout(self._timeout):
                answer = await call(request, context)
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

    async def _server_live(self, _: Any, __: Any) -> Any:
        return messages.message("ServerLiveResponse")(live=True)

    async def _server_ready(self, _: Any, __: Any) -> Any:
        return messages.message("ServerReadyResponse")(ready=not self._edge.draining)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        with self._edge.admitted(*_caller(context)):
            self._manifest(request.name, request.version)
        return messages.message("ModelReadyResponse")(ready=not self._edge.draining)

    async def _server_metadata(self, _: Any, context: Any) -> Any:
        with self._edge.admitted(*_caller(context)):
            return messages.message("ServerMetadataResponse")(name="eyestate", version=__version__)

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        with self._edge.admitted(*_caller(context)):
            manifest = self._manifest(request.name, request.version)
        return messages.message("ModelMetadataResponse")(
            name=manifest.name,
            versions=[manifest.version],
            platform=PLATFORM,
            inputs=[tensor.model_dump() for tensor in INPUTS],
            outputs=[tensor.model_dump() for tensor in OUTPUTS],
        )

    async def _infer(self, request: Any, context: Any) -> Any:
        with self._edge.admitted(*_caller(context), size=request.ByteSize()) as scope:
            runtime = self._runtime()
            manifest = self._manifest(request.model_name, request.model_version)
            asked, inputs = _read(request)
            scores = await _scores(runtime, scope, inputs)
            return _written(request, asked, manifest, scores, runtime)

    def _manifest(self, name: str, version: str) -> Card:
        manifest = self._runtime().scorer.manifest
        check_model(manifest, name, version or manifest.version)
        return manifest


async def _scores(runtime: Runtime, scope: Scope, inputs: Sequence[tensors.Content]) -> Scores:
    crops = []
    for images in inputs:
        decoded = await runtime.decode(scope, images)
        for place, error in decoded.failures.items():
            raise type(error)(f"element {place} of 'images': {error.message}")
        crops.append(decoded)
    return np.concatenate([await runtime.score(scope, part) for part in crops])


def _parsed(form: Any, content: bytes) -> Any:
    """The message, None if it is none. gRPC would log an exception, and tell a client nothing that it could use."""
    try:
        return form.FromString(content)
    except DecodeError:
        return None


def _read(request: Any) -> tuple[InferenceRequest, list[tensors.Content]]:
    """As ``tensors.read``, from a message.

    Raises:
        RequestError, ImageError: as there.
    """
    asked = tensors.validated(
        {
            "id": request.id or None,
            "inputs": [
                {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
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
            found.append(tensors.pixels(tensor.shape, raw[place] if raw else _octets(contents.uint_contents)))
        else:
            images = tensors.elements(memoryview(raw[place])) if raw else list(contents.bytes_contents)
            found.append(tensors.files(tensor.shape, images))
    return asked, found


def _octets(numbers: Sequence[int]) -> bytes:
    try:
        return bytes(numbers)
    except ValueError:
        raise InferenceRequestError("the data of 'crops' must be whole numbers from 0 to 255") from None


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
    """The address of a caller, and its API key, as in the headers of HTTP."""
    key = b""
    for name, value in context.invocation_metadata() or ():
        text = value if isinstance(value, bytes) else value.encode()
        if name == "x-api-key":
            key = text
        elif name == "authorization" and text[:7].lower() == b"bearer ":
            key = text[7:].strip()
    return context.peer().partition(":")[2].rpartition(":")[0], key


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
