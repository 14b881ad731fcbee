"""Requests of every kind that a service receives: eyes in all states, large batches, invalid images."""

from __future__ import annotations

import io
from typing import Final

import numpy as np

from eyestate.arrays import Pixels
from eyestate.media_types import JSON, NPY
from tools.harness.crops import SIDE, jpeg
from tools.harness.load import http_request
from tools.harness.servers import PROJECT
from training.data.synthetic import random_eye, render

_EYES: Final = 100
_SINGLES: Final = 8
_SEED: Final = 0


def requests(model: str) -> list[bytes]:
    """HTTP requests for the model of that name, to be sent cyclically."""
    eyes = synthetic_eyes()
    files = [jpeg(each) for each in eyes[:_SINGLES]]
    infer = (PROJECT / "examples" / "infer.json").read_bytes()
    return [
        *(http_request("/v1/score", file) for file in files),
        http_request("/v1/score/batch", _packed(eyes), NPY),
        http_request("/v1/faces", (PROJECT / "docs" / "images" / "face.jpg").read_bytes()),
        http_request(f"/v2/models/{model}/infer", infer, JSON),
        http_request("/v1/score", b"no image"),
        http_request("/v1/score", files[0][: len(files[0]) // 2]),
    ]


def synthetic_eyes() -> Pixels:
    """Rendered eyes, open, closed and in between, uint8 (eyes, SIDE, SIDE)."""
    random = np.random.default_rng(_SEED)
    return np.stack([render(random_eye(random, opening), SIDE) for opening in random.uniform(size=_EYES)])


def _packed(crops: Pixels) -> bytes:
    file = io.BytesIO()
    np.save(file, crops)
    return file.getvalue()
