"""BentoML's quickstart form: a batchable API on a list of images. The batcher keeps its defaults."""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np
from PIL import Image

from loadtests.peers.model import WORKERS, Model


@bentoml.service(workers=WORKERS, traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Quickstart:
    """Scores images in batches that BentoML makes."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def score(self, images: list[Image.Image]) -> list[dict[str, Any]]:
        """One verdict for each image; BentoML has decoded their heads."""
        return self.model.answers([self.model.fit(np.asarray(image.convert("L"))) for image in images])
