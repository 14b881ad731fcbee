from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from eyestate.arrays import Pixels
from eyestate.images import decode, to_input
from eyestate.quality import SIDE, TOO_BLURRED, TOO_BRIGHT, TOO_DARK, TOO_SMALL, assess, measure, shrink
from training.data.synthetic import labelled


@pytest.fixture(scope="module")
def eyes() -> list[Pixels]:
    return [pixels for pixels, _ in labelled(40, seed=3)]


def blurred(crop: Pixels, sigma: float) -> Pixels:
    return np.asarray(Image.fromarray(crop).filter(ImageFilter.GaussianBlur(sigma * len(crop) / SIDE)))


def flat(grey: int, height: int = SIDE, width: int = SIDE) -> Pixels:
    return np.full((height, width), grey, np.uint8)


def test_measures_of_a_known_crop() -> None:
    """Columns of 100 and 200 in turn: every Laplacian is twice the step, up and down."""
    stripes = np.tile(np.array([100, 200], np.uint8), (SIDE, SIDE // 2))
    measures = measure([stripes])
    assert measures.brightness.tolist() == [150]
    assert measures.contrast.tolist() == [50]
    assert measures.sharpness == pytest.approx([(200**2 - 20 / 12) / 50**2])


def test_each_crop_is_measured_alone(eyes: list[Pixels]) -> None:
    together = measure([shrink(eye) for eye in eyes])
    for place, eye in enumerate(eyes):
        alone = measure([shrink(eye)])
        assert alone.brightness == pytest.approx(together.brightness[place : place + 1])
        assert alone.contrast == pytest.approx(together.contrast[place : place + 1])
        assert alone.sharpness == pytest.approx(together.sharpness[place : place + 1], rel=1e-4)


def test_no_crops() -> None:
    assert measure([]).sharpness.shape == (0,)
    assert assess([]) == []
    assert assess(np.empty((0, 30, 20), np.uint8)) == []


def test_sharpness_falls_with_blur_and_not_with_light(eyes: list[Pixels]) -> None:
    def sharpness(crops: list[Pixels]) -> float:
        return float(np.median(measure([shrink(crop) for crop in crops]).sharpness))

    as_drawn = sharpness(eyes)
    assert sharpness([blurred(eye, 1) for eye in eyes]) < as_drawn / 2
    for factor in (0.5, 0.2):
        assert sharpness([np.rint(eye * factor).astype(np.uint8) for eye in eyes]) == pytest.approx(as_drawn, rel=0.1)


@pytest.mark.parametrize(
    ("crop", "flags"),
    [
        pytest.param(flat(0), ["too_dark", "too_blurred"], id="black"),
        pytest.param(flat(255), ["too_bright", "too_blurred"], id="white"),
        pytest.param(flat(128), ["too_blurred"], id="grey"),
        pytest.param(flat(0, 8, 8), ["too_dark", "too_blurred", "too_small"], id="small"),
        pytest.param(flat(128, 13, 400), ["too_blurred", "too_small"], id="one side is small"),
    ],
)
def test_flags(crop: Pixels, flags: list[str]) -> None:
    (quality,) = assess([crop])
    assert quality.flags == flags
    assert (quality.height, quality.width) == crop.shape


def test_a_drawn_eye_has_no_flags_until_it_is_blurred(eyes: list[Pixels]) -> None:
    assert [quality.flags for quality in assess(eyes)] == [[]] * len(eyes)
    assert all("too_blurred" in quality.flags for quality in assess([blurred(eye, 4) for eye in eyes]))


def test_one_array_is_as_many_crops(eyes: list[Pixels]) -> None:
    crops = np.stack([to_input(eye, 40) for eye in eyes])
    assert assess(crops) == assess(list(crops))


def test_the_documents_example() -> None:
    """docs/metrics.md shows what is measured of the example, and the limits that hold."""
    project = Path(__file__).parents[2]
    document = (project / "docs" / "metrics.md").read_text()
    (quality,) = assess([decode((project / "examples" / "open.jpg").read_bytes())])
    assert json.dumps(asdict(quality), separators=(",", ":")) in document
    limits = {"too_dark": TOO_DARK, "too_bright": TOO_BRIGHT, "too_blurred": TOO_BLURRED, "too_small": TOO_SMALL}
    rows = re.findall(r"^\| `(too_\w+)` \| ([^|]*)", document, re.MULTILINE)
    assert {flag: re.findall(r"[\d.]*\d", condition) for flag, condition in rows} == {
        flag: [f"{limit:g}"] for flag, limit in limits.items()
    }
