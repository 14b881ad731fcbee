from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

import eyestate
from eyestate.bundle import Feature
from eyestate.drift import LEAST, reference
from tests.bundles import write_bundle
from training.data.datasets import Crop
from training.evaluation.drift_examples import drift_examples


def crop(number: int, side: int = 24) -> Crop:
    file = io.BytesIO()
    noise = np.random.default_rng(number).integers(100, 200, (side, side), np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return Crop(f"{number}.png", file.getvalue())


def test_indices_of_what_is_changed(tmp_path: Path) -> None:
    scorer = eyestate.load(write_bundle(tmp_path), device="cpu")
    values: dict[Feature, float] = {"score": 0.6, "width": 24.0, "brightness": 150.0, "sharpness": 1.9}
    features = {name: np.full(LEAST, value) for name, value in values.items()}
    own = reference("noise", features, scorer.manifest.thresholds)
    scorer.manifest = scorer.manifest.model_copy(update={"reference": own})
    rows = drift_examples(scorer, [crop(number) for number in range(LEAST)], [crop(9, 48)] * LEAST)
    assert [row.n for row in rows] == [LEAST] * 6
    same, dark, *_, shrunk, strangers = rows
    assert same.crops == f"{LEAST:,} held-out crops"
    assert same.indices["width"] == same.indices["brightness"] == dark.indices["width"] == 0
    assert dark.indices["brightness"] > 1
    assert shrunk.indices["width"] > 1
    assert strangers.indices["width"] > 1
