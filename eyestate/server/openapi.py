"""The OpenAPI 3.1 description of the HTTP API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from eyestate import __version__, errors
from eyestate.images import FORMATS, MAX_BYTES, MAX_SIDE, MIN_SIDE
from eyestate.media_types import ARROW, JSON, MULTIPART, NPY, OCTET_STREAM
from eyestate.mtcnn import FACES_ALONG, MAX_FACES, MIN_FACE
from eyestate.schema import BatchResponse, BestResponse, ErrorResponse, FacesResponse, Readiness, ScoreResponse
from eyestate.server import packed
from eyestate.server.openinference.schema import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ModelReady,
    ProtocolError,
    RepositoryModel,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from eyestate.server.openinference.tensors import JSON_LENGTH, MAX_JSON_BYTES
from eyestate.server.packed import MAX_CROPS
from eyestate.server.uploads import MAX_BODY_BYTES, MAX_IMAGES, MAX_PHOTOS

_ANSWERS: Final = (
    ScoreResponse,
    BatchResponse,
    FacesResponse,
    BestResponse,
    ErrorResponse,
    Readiness,
    InferenceResponse,
    ModelMetadata,
    ModelReady,
    ProtocolError,
    RepositoryModel,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
_IMAGE_LIMITS: Final = f"{', '.join(FORMATS)}; up to {MAX_BYTES:,} bytes; sides of {MIN_SIDE} to {MAX_SIDE:,} pixels."
_BINARY: Final = {"type": "string", "format": "binary"}
_MANY: Final[dict[str, Any]] = {"type": "array", "items": _BINARY, "minItems": 1}
_REQUEST_ERRORS: Final = (
    errors.EmptyBodyError,
    errors.MalformedRequestError,
    errors.BodyTooLargeError,
    errors.UnsupportedMediaTypeError,
    errors.UnsupportedCodingError,
    errors.RequestError,
    errors.UnauthorizedError,
    errors.RequestTimeoutError,
    errors.OverloadedError,
    errors.DrainingError,
    errors.DeadlineExceededError,
)
_FACES_ERRORS: Final = (*_REQUEST_ERRORS, errors.DetectorError)
_STREAM_ERRORS: Final = (
    errors.RequestError,
    errors.UnauthorizedError,
    errors.OriginNotAllowedError,
    errors.UpgradeRequiredError,
    errors.OverloadedError,
    errors.DetectorError,
    errors.DrainingError,
)
_STREAM_PARAMETERS: Final = [
    {"name": name, "in": "query", "description": description, "schema": schema}
    for name, description, schema in (
        (
            "mode",
            "Whether frames show a person or are crops of an eye.",
            {"type": "string", "enum": ["face", "crop"], "default": "face"},
        ),
        ("eye", "Which eye the crops are of.", {"type": "string", "enum": ["left", "right"], "default": "left"}),
        ("newest", "Whether a frame that waits gives way to a newer one.", {"type": "boolean", "default": False}),
    )
]
_MODEL_ERRORS: Final = (errors.UnauthorizedError, errors.NotFoundError, errors.DrainingError)
_INFER_ERRORS: Final = (*_REQUEST_ERRORS, errors.NotFoundError, errors.InferenceRequestError)
_QUALITY: Final = {
    "name": "quality",
    "in": "query",
    "description": "Whether the response includes how well each eye can be seen.",
    "schema": {"type": "boolean", "default": False},
}
_VERDICT: Final = {
    "name": "verdict",
    "in": "query",
    "description": "Whether the response tells who has both eyes open, who blinks, and of whom it cannot be told.",
    "schema": {"type": "boolean", "default": False},
}
_NPY: Final = "a .npy file: uint8 (N, height, width) grey or (N, height, width, 3) RGB, in C order"
_ARROW: Final = (
    f"an uncompressed Arrow IPC stream with the column '{packed.COLUMN}': encoded images as binary, or a fixed-shape "
    "tensor of uint8 (height, width) or (height, width, 3)"
)
_REPOSITORY_ERRORS: Final = (*_INFER_ERRORS, errors.ForbiddenError, errors.ModelControlError)
_JSON_LENGTH: Final = {
    "name": JSON_LENGTH,
    "in": "header",
    "description": "Bytes of JSON, if binary tensor data follow it",
    "schema": {"type": "integer", "minimum": 0},
}
_BINARY_TENSORS: Final = {
    "schema": {
        **_BINARY,
        "description": f"JSON of the length in {JSON_LENGTH}, followed by binary tensor data",
    }
}


@cache
def document() -> bytes:
    """The description as JSON."""
    _, definitions = models_json_schema(
        [(InferenceRequest, "validation"), *((model, "serialization") for model in _ANSWERS)],
        ref_template="#/components/schemas/{model}",
    )
    description = {
        "openapi": "3.1.0",
        "info": {
            "title": "eyestate",
            "version": __version__,
            "description": "Tells open eyes from closed ones. A score is P(open), 0 to 1; the state is the verdict "
            "under the model's thresholds: open, closed, or uncertain in between.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            "/v1/score": {
                "post": {
                    "operationId": "score",
                    "tags": ["scoring"],
                    "summary": "Score one eye crop",
                    "description": _IMAGE_LIMITS,
                    "requestBody": {
                        "required": True,
                        "content": _one_image(),
                    },
                    "parameters": [_QUALITY],
                    "responses": _responses("ScoreResponse", "Score and state of the crop"),
                }
            },
            "/v1/score/batch": {
                "post": {
                    "operationId": "scoreBatch",
                    "tags": ["scoring"],
                    "summary": "Score many eye crops",
                    "description": f"Up to {MAX_BODY_BYTES:,} bytes: {MAX_IMAGES:,} images as multipart, or "
                    f"{MAX_CROPS:,} crops packed. A crop that cannot be scored has its error in its place; the others "
                    "are scored.",
                    "parameters": [_QUALITY],
                    "requestBody": {
                        "required": True,
                        "content": {
                            MULTIPART: {"schema": _form("images", _MANY)},
                            NPY: {"schema": {**_BINARY, "description": _NPY}},
                            ARROW: {"schema": {**_BINARY, "description": _ARROW}},
                        },
                    },
                    "responses": _batch_responses(),
                }
            },
            "/v1/faces": {
                "post": {
                    "operationId": "faces",
                    "tags": ["scoring"],
                    "summary": "Find the faces in a photo and score their eyes",
                    "description": f"{_IMAGE_LIMITS} Of faces from {MIN_FACE} pixels and a {FACES_ALONG}th of the "
                    f"longest side on, the {MAX_FACES} largest are answered, largest first. Left and right are the "
                    "person's own. Boxes are in pixels of the photo as EXIF turns it upright.",
                    "parameters": [_QUALITY, _VERDICT],
                    "requestBody": {"required": True, "content": _one_image()},
                    "responses": _responses("FacesResponse", "Faces and eyes, with scores and states", _FACES_ERRORS),
                }
            },
            "/v1/faces/best": {
                "post": {
                    "operationId": "facesBest",
                    "tags": ["scoring"],
                    "summary": "Choose the best of several photos of the same people",
                    "description": f"Up to {MAX_PHOTOS} photos and {MAX_BODY_BYTES:,} bytes. The best shows the most "
                    "people with open eyes, then the fewest who blink, then the fewest of whom it cannot be told, then "
                    "the sharpest eyes. A photo that cannot be read has its error in its place.",
                    "requestBody": {
                        "required": True,
                        "content": {MULTIPART: {"schema": _form("images", _MANY | {"maxItems": MAX_PHOTOS})}},
                    },
                    "responses": _responses("BestResponse", "The photos, ranked, with their verdicts", _FACES_ERRORS),
                }
            },
            "/v1/stream": {
                "get": {
                    "operationId": "stream",
                    "tags": ["scoring"],
                    "summary": "A WebSocket: frames in; scores, blinks and PERCLOS out",
                    "description": "Each binary message is a frame, each answer a message of JSON: docs/streams.md "
                    "describes both. The API key goes into a header, or into the first message.",
                    "parameters": _STREAM_PARAMETERS,
                    "responses": {"101": {"description": "The stream begins"}, **_refusals(_STREAM_ERRORS)},
                }
            },
            "/livez": {"get": _probe("The process runs")},
            "/readyz": {
                "get": {
                    **_probe("The model is loaded and has scored a first crop"),
                    "responses": {
                        "200": {"description": "Ready", "content": _content("Readiness")},
                        "503": {"description": "Shutting down", "content": _content("Readiness")},
                    },
                }
            },
            "/metrics": {"get": _probe("Prometheus metrics")},
            **_inference_protocol(),
        },
        "components": {"schemas": definitions["$defs"]},
    }
    return json.dumps(description).encode()


def _inference_protocol() -> dict[str, Any]:
    """The paths of the Open Inference Protocol."""
    paths: dict[str, Any] = {
        "/v2": {"get": _inference("server", "The server, and which extensions it knows", "ServerMetadata")},
        "/v2/health/live": {"get": _inference("serverLive", "Whether the server runs", "ServerLive", ())},
        "/v2/health/ready": {"get": _inference("serverReady", "Whether the server takes requests", "ServerReady", ())},
    }
    for path, operation, names in (
        ("/v2/models/{name}", "model", ["name"]),
        ("/v2/models/{name}/versions/{version}", "modelVersion", ["name", "version"]),
    ):
        parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
        paths |= {
            path: {"get": _inference(operation, "What the model takes and gives", "ModelMetadata")},
            f"{path}/ready": {"get": _inference(f"{operation}Ready", "Whether the model takes requests", "ModelReady")},
            f"{path}/infer": {
                "post": _inference(f"{operation}Infer", "Score crops", "InferenceResponse", _INFER_ERRORS)
                | {
                    "description": f"Up to {MAX_CROPS:,} crops and {MAX_BODY_BYTES:,} bytes, of which "
                    f"{MAX_JSON_BYTES:,} may be JSON. A crop that cannot be scored fails the request.",
                    "requestBody": {
                        "required": True,
                        "content": {**_content("InferenceRequest"), OCTET_STREAM: _BINARY_TENSORS},
                    },
                },
            },
        }
        for action, method, header in (("", "get", []), ("/ready", "get", []), ("/infer", "post", [_JSON_LENGTH])):
            paths[path + action][method]["parameters"] = [*parameters, *header]
        paths[f"{path}/infer"]["post"]["responses"]["200"]["content"][OCTET_STREAM] = _BINARY_TENSORS
        paths[f"{path}/ready"]["get"]["responses"]["503"] = {"description": "Shutting down"}
    paths["/v2/health/ready"]["get"]["responses"]["503"] = {"description": "Shutting down"}
    return paths | _repository()


def _repository() -> dict[str, Any]:
    """The paths of its model repository extension."""
    index = _inference("repositoryIndex", "The models that there are", "RepositoryModel", _REPOSITORY_ERRORS)
    listed = index["responses"]["200"]["content"][JSON]
    listed["schema"] = {"type": "array", "items": listed["schema"]}
    paths: dict[str, Any] = {"/v2/repository/index": {"post": index}}
    for action, summary in (
        ("load", "Serve this model in place of the present one"),
        ("unload", "Nothing, for a model that is not served"),
    ):
        operation = _inference(f"repository{action.title()}", summary, "RepositoryModel", _REPOSITORY_ERRORS)
        operation["responses"]["200"] = {"description": summary}
        operation["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
        paths[f"/v2/repository/models/{{name}}/{action}"] = {"post": operation}
    return paths


def _inference(
    operation: str, summary: str, answer: str, refused: Sequence[type[errors.EyestateError]] = _MODEL_ERRORS
) -> dict[str, Any]:
    return {
        "operationId": operation,
        "tags": ["Open Inference Protocol"],
        "summary": summary,
        "responses": _responses(answer, summary, refused, "ProtocolError"),
    }


def _one_image() -> dict[str, Any]:
    return {
        MULTIPART: {"schema": _form("image", _BINARY)},
        "image/*": {"schema": _BINARY},
        OCTET_STREAM: {"schema": _BINARY},
    }


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [field], "properties": {field: schema}}


def _responses(
    answer: str,
    description: str,
    refused: Sequence[type[errors.EyestateError]] = _REQUEST_ERRORS,
    error_response: str = "ErrorResponse",
) -> dict[str, Any]:
    return {
        "200": {"description": description, "content": _content(answer)},
        **_refusals(refused, error_response),
    }


def _refusals(refused: Sequence[type[errors.EyestateError]], error_response: str = "ErrorResponse") -> dict[str, Any]:
    return {
        str(status): {
            "description": " ".join(
                (error.__doc__ or "").partition("\n")[0] for error in refused if error.status == status
            ),
            "content": _content(error_response),
        }
        for status in sorted({error.status for error in refused})
    }


def _batch_responses() -> dict[str, Any]:
    responses = _responses("BatchResponse", "A verdict or an error for each crop, in order; its form by `Accept`")
    responses["200"]["content"] |= {
        NPY: {"schema": {**_BINARY, "description": "float32 (N,), NaN for a crop that could not be scored"}},
        ARROW: {"schema": {**_BINARY, "description": "columns score, state, error, message, each nullable"}},
    }
    return responses


def _content(model: str) -> dict[str, Any]:
    return {JSON: {"schema": {"$ref": f"#/components/schemas/{model}"}}}


def _probe(description: str) -> dict[str, Any]:
    return {"summary": description, "tags": ["operations"], "responses": {"200": {"description": description}}}
