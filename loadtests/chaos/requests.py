"""What the users of a service send: crops of all forms and sizes, photos, and mistakes."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from typing import Final

import numpy as np
import pyarrow as pa

from eyestate.images import MAX_SIDE
from eyestate.media_types import ARROW, JSON, NPY
from tools.harness import crops
from tools.harness.load import http_request
from tools.harness.servers import PROJECT

_SIDES: Final = (24, 24, 32, 48, 96, 200)
_BATCH: Final = 8


def small(model: str) -> list[bytes]:
    """Requests for a few crops, single ones more often than others, which are answered with 200.

    Args:
        model: the name under which the inference protocol knows what is served.
    """
    singles = [http_request("/v1/score", crops.jpeg(crops.eye(side))) for side in _SIDES]
    others = [
        http_request("/v1/score?quality=true", crops.jpeg(crops.eye())),
        http_request("/v1/score/batch", packed(), NPY, JSON),
        http_request("/v1/score/batch", arrow(), ARROW, JSON),
        http_request(f"/v2/models/{model}/infer", inference(), JSON),
    ]
    return [request for other in others for request in (*singles, other)]


def large() -> list[bytes]:
    """A photo and the largest image, which are answered with 200."""
    return [
        http_request("/v1/faces", (PROJECT / "docs" / "images" / "face.jpg").read_bytes()),
        http_request("/v1/score", crops.jpeg(crops.eye(MAX_SIDE))),
    ]


def mistaken() -> list[bytes]:
    """Requests that are answered with 400, 404, 415 or 422."""
    image = crops.jpeg(crops.eye())
    return [
        http_request("/v1/score", b"this is no image"),
        http_request("/v1/score", image[:300]),
        http_request("/v1/score/batch", packed()[:-1], NPY, JSON),
        http_request("/v1/scores", image),
    ]


def packed() -> bytes:
    """A few crops as a ``.npy`` file."""
    file = io.BytesIO()
    np.save(file, np.stack([crops.eye()] * _BATCH))
    return file.getvalue()


def arrow() -> bytes:
    """A few crops as an Arrow stream."""
    sink = pa.BufferOutputStream()
    table = pa.table({"image": pa.array([crops.jpeg(crops.eye())] * _BATCH, pa.binary())})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream: bytes = sink.getvalue().to_pybytes()
    return stream


def inference() -> bytes:
    """A few crops for the inference protocol, in JSON."""
    image = b64encode(crops.jpeg(crops.eye())).decode()
    images = {"name": "images", "datatype": "BYTES", "shape": [_BATCH], "data": [image] * _BATCH}
    return json.dumps({"inputs": [images]}).encode()
