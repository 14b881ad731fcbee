"""The Open Inference Protocol, version 2, over REST under ``/v2``, for clients of Triton and KServe.

The model takes ``crops``, UINT8 (N, height, width) grey or (N, height, width, 3) RGB, and ``images``, BYTES (N), each
element an encoded image file. A request has one of the two or both; then the answer's elements are in the order of
the inputs. The model gives ``score``, FP32 (N), and ``state``, BYTES (N).

A tensor is sent in the JSON or, by the binary tensor extension, as bytes behind it. A JSON string can't hold any bytes,
so there the elements of ``images`` are base64. The protocol has no error for one element: a crop that cannot be scored
fails its request, and the error names its index.
"""

from __future__ import annotations

import asyncio
from typing import Final

import numpy as np
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from eyestate import __version__
from eyestate.bundle import Card
from eyestate.errors import EyestateError
from eyestate.media_types import JSON, OCTET_STREAM
from eyestate.server import uploads
from eyestate.server.openinference import repository
from eyestate.server.openinference.description import INPUTS, OUTPUTS, PLATFORM, check_model
from eyestate.server.openinference.schema import (
    ModelMetadata,
    ModelReady,
    ProtocolError,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from eyestate.server.openinference.tensors import JSON_LENGTH, read, write
from eyestate.server.routing import Api, Endpoint, Route
from eyestate.server.runtime import Runtime


def error_response(error: EyestateError) -> Response:
    """An error in the form of the protocol."""
    return _json(ProtocolError(error=error.message), error.status)


async def server_metadata(_: Request) -> Response:
    """``GET /v2``."""
    return _json(
        ServerMetadata(name="eyestate", version=__version__, extensions=["binary_tensor_data", "model_repository"])
    )


async def server_live(_: Request) -> Response:
    """``GET /v2/health/live``."""
    return _json(ServerLive(live=True))


async def server_ready(request: Request) -> Response:
    """``GET /v2/health/ready``."""
    ready = not request.app.state.edge.draining
    return _json(ServerReady(ready=ready), 200 if ready else 503)


async def model_ready(request: Request) -> Response:
    """``GET /v2/models/{name}[/versions/{version}]/ready``."""
    ready = not request.app.state.edge.draining
    return _json(ModelReady(name=_manifest(request).name, ready=ready), 200 if ready else 503)


async def model_metadata(request: Request) -> Response:
    """``GET /v2/models/{name}[/versions/{version}]``."""
    manifest = _manifest(request)
    return _json(
        ModelMetadata(
            name=manifest.name,
            versions=[manifest.version],
            platform=PLATFORM,
            inputs=list(INPUTS),
            outputs=list(OUTPUTS),
        )
    )


async def infer(request: Request) -> Response:
    """``POST /v2/models/{name}[/versions/{version}]/infer``."""
    manifest = _manifest(request)
    runtime: Runtime = request.app.state.runtime
    body = await uploads.body(request, uploads.MAX_BODY_BYTES)
    json_length = request.headers.get(JSON_LENGTH)
    if len(body) <= uploads.INLINE_BYTES:
        asked, tensors = read(body, json_length)
    else:
        asked, tensors = await asyncio.to_thread(read, body, json_length)
    crops = []
    for tensor in tensors:
        decoded = await runtime.decode(request.scope, tensor)
        for place, error in decoded.failures.items():
            raise type(error)(f"element {place} of 'images': {error.message}")
        crops.append(decoded)
    scores = np.concatenate([await runtime.score(request.scope, part) for part in crops])
    head, binary = write(asked, manifest, scores, runtime.scorer.states(scores))
    if not binary:
        return Response(head, media_type=JSON)
    return Response(head + binary, media_type=OCTET_STREAM, headers={JSON_LENGTH: str(len(head))})


def _of_model(path: str, endpoint: Endpoint, method: str = "GET") -> list[Route]:
    """The route for the model, and for a version of it."""
    models = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
    return [Route(model + path, endpoint, method) for model in models]


API: Final = Api(
    prefix="/v2",
    routes=(
        Route("/v2", server_metadata),
        Route("/v2/", server_metadata),
        Route("/v2/health/live", server_live, operational=True),
        Route("/v2/health/ready", server_ready, operational=True),
        *_of_model("", model_metadata),
        *_of_model("/ready", model_ready),
        *_of_model("/infer", infer, "POST"),
        *repository.ROUTES,
    ),
    error_form=error_response,
    hint="GET /v2/models/NAME describes the model",
)


def _manifest(request: Request) -> Card:
    """The manifest of the model in the path.

    Raises:
        NotFoundError: the model served has another name or version.
    """
    runtime: Runtime = request.app.state.runtime
    manifest = runtime.scorer.manifest
    check_model(manifest, request.path_params["name"], request.path_params.get("version", manifest.version))
    return manifest


def _json(answer: BaseModel, status: int = 200) -> Response:
    return Response(answer.model_dump_json(exclude_none=True), status, media_type=JSON)
