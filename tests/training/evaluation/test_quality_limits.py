from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

import eyestate
from tests.bundles import write_bundle
from training.data.datasets import LabelledCrop
from training.evaluation.quality_limits import quality_limits


def crop(grey: int, label: int) -> LabelledCrop:
    file = io.BytesIO()
    Image.fromarray(np.full((48, 48), grey, np.uint8)).save(file, "PNG")
    return LabelledCrop(f"{grey}.png", file.getvalue(), label)


def test_errors_by_what_is_measured(tmp_path: Path) -> None:
    """The bundle takes bright for open: with closed eyes of 40 and open ones of 220 it errs once both are white."""
    scorer = eyestate.load(write_bundle(tmp_path), device="cpu")
    rows = quality_limits(scorer, [crop(40, 0), crop(40, 0), crop(220, 1)])
    assert (rows[0].figure, rows[0].crops, rows[0].eer, rows[0].uncertain) == ("undisturbed", 3, 0, 0)
    found = {(row.figure, row.low): row for row in rows}
    assert found["brightness, darkened", 14].crops == 3  # 40 · 0.35 twice, 220 · 0.08 once
    assert found["brightness, darkened", 40].crops == 4  # 40 as it is twice, 220 · 0.25 and 220 · 0.18 once
    assert found["brightness, darkened", 60].uncertain == 1  # 220 · 0.35
    assert found["brightness, overexposed", 150].eer is None  # 40 · 4
    assert found["brightness, overexposed", 248].crops == 7  # 220 at every level but the first
    assert found["sharpness, blurred", 0].crops == 18
    assert [found["pixels a side, shrunk", side].crops for side in (8, 10, 12, 14, 16, 20, 24)] == [3] * 7
