"""What every peer serves: the bundle, in the same ONNX Runtime session and with the same response as ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from eyestate.arrays import Pixels
from eyestate.bundle import load_bundle
from eyestate.execution import open_session
from eyestate.images import decode, to_input
from eyestate.settings import device_from_environment

WORKERS: Final = int(os.environ.get("PEER_WORKERS", "1"))  # processes that run inference
THREADS: Final = int(os.environ.get("PEER_THREADS", "1"))  # of ONNX Runtime in each of them
MAX_BATCH: Final = 32
MAX_WAIT_MS: Final = 1  # for a batch to fill, for peers that require it; 2 and 5 were slower


class Model:
    """The bundle in ``$EYESTATE_MODEL``, on the device in ``$EYESTATE_DEVICE``."""

    def __init__(self) -> None:
        self.bundle = load_bundle()
        self.manifest = self.bundle.manifest
        self._session, _ = open_session(self.bundle.onnx, device_from_environment(), THREADS)

    def preprocess(self, image: bytes) -> Pixels:
        """Image bytes to one model input (side, side)."""
        return self.resize(decode(image))

    def resize(self, pixels: Pixels) -> Pixels:
        """Greyscale pixels (height, width) to one model input (side, side)."""
        return to_input(pixels, self.manifest.input.side)

    def predict(self, inputs: Sequence[Pixels]) -> list[dict[str, Any]]:
        """Score one batch of model inputs; for each, the JSON of our ``/v1/score``."""
        (scores,) = self._session.run([self.manifest.output.name], {self.manifest.input.name: np.stack(inputs)})
        return [self._response(score) for score in scores.tolist()]

    def _response(self, score: float) -> dict[str, Any]:
        thresholds = self.manifest.thresholds
        state = "open" if score >= thresholds.open else "closed" if score <= thresholds.closed else "uncertain"
        model = {"name": self.manifest.name, "version": self.manifest.version}
        return {"score": round(score, 6), "state": state, "model": model}
