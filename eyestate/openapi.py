"""The OpenAPI 3.1 description of the HTTP API."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from eyestate import __version__, errors, packed
from eyestate.images import FORMATS, MAX_BYTES, MAX_SIDE, MIN_SIDE
from eyestate.packed import MAX_CROPS
from eyestate.schema import BatchAnswer, ErrorAnswer, Readiness, ScoreAnswer
from eyestate.uploads import MAX_BODY_BYTES, MAX_IMAGES

_IMAGE_LIMITS: Final = f"{', '.join(FORMATS)}; up to {MAX_BYTES:,} bytes; sides of {MIN_SIDE} to {MAX_SIDE:,} pixels."
_BINARY: Final = {"type": "string", "format": "binary"}
_REQUEST_ERRORS: Final = (
    errors.EmptyBodyError,
    errors.BodyTooLargeError,
    errors.UnsupportedMediaTypeError,
    errors.RequestError,
    errors.UnauthorizedError,
    errors.RequestTimeoutError,
    errors.OverloadedError,
    errors.DrainingError,
    errors.DeadlineExceededError,
)
_QUALITY: Final = {
    "name": "quality",
    "in": "query",
    "description": "Whether the answer also tells how well each eye can be seen.",
    "schema": {"type": "boolean", "default": False},
}
_NPY: Final = "a .npy file: uint8 (N, height, width) grey or (N, height, width, 3) RGB, in C order"
_ARROW: Final = (
    f"an uncompressed Arrow IPC stream with the column '{packed.COLUMN}': encoded images as binary, or a fixed-shape "
    "tensor of uint8 (height, width) or (height, width, 3)"
)


@cache
def document() -> bytes:
    """The description as JSON."""
    _, definitions = models_json_schema(
        [(model, "serialization") for model in (ScoreAnswer, BatchAnswer, ErrorAnswer, Readiness)],
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
                        "content": {
                            "multipart/form-data": {"schema": _form("image", _BINARY)},
                            "image/*": {"schema": _BINARY},
                            "application/octet-stream": {"schema": _BINARY},
                        },
                    },
                    "parameters": [_QUALITY],
                    "responses": _responses("ScoreAnswer", "Score and state of the crop"),
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
                            "multipart/form-data": {
                                "schema": _form("images", {"type": "array", "items": _BINARY, "minItems": 1})
                            },
                            packed.NPY: {"schema": {**_BINARY, "description": _NPY}},
                            packed.ARROW: {"schema": {**_BINARY, "description": _ARROW}},
                        },
                    },
                    "responses": _batch_responses(),
                }
            },
            "/livez": {"get": _probe("The process runs")},
            "/readyz": {
                "get": {
                    **_probe("The model is loaded and has scored a first crop"),
                    "responses": {
                        "200": {"description": "Ready", "content": _content("Readiness")},
                        "503": {"description": "About to stop", "content": _content("Readiness")},
                    },
                }
            },
            "/metrics": {"get": _probe("Prometheus metrics")},
        },
        "components": {"schemas": definitions["$defs"]},
    }
    return json.dumps(description).encode()


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": [field], "properties": {field: schema}}


def _responses(answer: str, description: str) -> dict[str, Any]:
    refused = {
        str(status): {
            "description": " ".join(
                (error.__doc__ or "").partition("\n")[0] for error in _REQUEST_ERRORS if error.status == status
            ),
            "content": _content("ErrorAnswer"),
        }
        for status in sorted({error.status for error in _REQUEST_ERRORS})
    }
    return {"200": {"description": description, "content": _content(answer)}, **refused}


def _batch_responses() -> dict[str, Any]:
    responses = _responses("BatchAnswer", "A verdict or an error for each crop, in order; its form by `Accept`")
    responses["200"]["content"] |= {
        packed.NPY: {"schema": {**_BINARY, "description": "float32 (N,), NaN for a crop that could not be scored"}},
        packed.ARROW: {"schema": {**_BINARY, "description": "columns score, state, error, message, each nullable"}},
    }
    return responses


def _content(model: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model}"}}}


def _probe(description: str) -> dict[str, Any]:
    return {"summary": description, "tags": ["operations"], "responses": {"200": {"description": description}}}
