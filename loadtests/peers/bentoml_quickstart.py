"""BentoML as in its quickstart: a batchable API on a list of images, with the batcher's defaults."""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np
from PIL import Image

from loadtests.peers.model import WORKERS, Model


@bentoml.service(workers=WORKERS, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Quickstart:
    """Scores images in batches formed by BentoML."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def score(self, images: list[Image.Image]) -> list[dict[str, Any]]:
        """One result per image; BentoML has opened the images."""
        return self.model.score([np.asarray(image.convert("L")) for image in images])
