"""What every peer serves: the bundle, by the same scorer and with the same response as ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from eyestate.arrays import Pixels
from eyestate.bundle import load_model
from eyestate.images import decode
from eyestate.scorer import open_scorer

WORKERS: Final = int(os.environ.get("PEER_WORKERS", "1"))  # processes that run inference
THREADS: Final = int(os.environ.get("PEER_THREADS", "1"))  # of ONNX Runtime in each of them
MAX_BATCH: Final = 32
MAX_WAIT_MS: Final = 1  # for a batch to fill, for peers that require it; 2 and 5 were slower


class Model:
    """The bundle in ``$EYESTATE_MODEL``, on the device in ``$EYESTATE_DEVICE``."""

    def __init__(self) -> None:
        self._scorer = open_scorer(load_model(), threads=THREADS)
        manifest = self._scorer.manifest
        self._model = {"name": manifest.name, "version": manifest.version}

    def predict(self, images: Sequence[bytes]) -> list[dict[str, Any]]:
        """Score one batch of encoded images; for each, the JSON of our ``/v1/score``."""
        return self.score([decode(image) for image in images])

    def score(self, crops: Sequence[Pixels]) -> list[dict[str, Any]]:
        """Score one batch of grey crops, uint8 (height, width) each; for each, the JSON of our ``/v1/score``."""
        scores = self._scorer.score_parts([crop[np.newaxis] for crop in crops])
        return [
            {"score": round(score, 6), "state": self._scorer.state(score), "model": self._model}
            for score in scores.tolist()
        ]
