from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import eyestate
from eyestate.arrays import Pixels
from eyestate.bundle import Card
from eyestate.images import decode, luma
from tests.bundles import write_bundle
from tests.training.conftest import jpeg
from training.data.datasets import LabelledCrop
from training.data.synthetic import Eye, labelled, random_eye, render
from training.evaluation.behaviour import (
    FILMS,
    GENERATED,
    LIMITS,
    MAX_CHANGED,
    REDRAWINGS,
    STEPS,
    Results,
    TestCrops,
    _changes,
    behaviour,
    generated,
    sample,
    table,
    write,
)

CHANGES = {(name, how): change for name, how, change in _changes()}
EYE = render(random_eye(np.random.default_rng(0), 1.0))


def changed(name: str, how: str, crop: Pixels = EYE) -> Pixels:
    """The crop after a change, as a scorer sees it."""
    found = CHANGES[name, how](crop, np.random.default_rng(0))
    if isinstance(found, bytes):
        return decode(found)
    return found if found.ndim == 2 else luma(found)


class Oracle:
    """A model that knows the frames of the films: its score is the share of the film that is left."""

    def __init__(self, manifest: Card, eyes: Sequence[Eye]) -> None:
        self.manifest = manifest
        films = [film(eye) for film in FILMS.values() for eye in eyes]
        self.known = {frame.tobytes(): 1 - step / (STEPS - 1) for film in films for step, frame in enumerate(film)}

    def score(self, crops: Sequence[Pixels | bytes]) -> npt.NDArray[np.float32]:
        return np.array([self.known.get(bytes(crop), 0.5) for crop in crops], np.float32)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Card:
    return eyestate.load(write_bundle(tmp_path_factory.mktemp("models")), device="cpu").manifest


@pytest.fixture(scope="module")
def eyes() -> list[Eye]:
    return generated(8)


@pytest.fixture(scope="module")
def brightness(tmp_path_factory: pytest.TempPathFactory, eyes: list[Eye]) -> Results:
    """Of a bundle that scores the mean grey value of a crop."""
    model = eyestate.load(write_bundle(tmp_path_factory.mktemp("models")), device="cpu")
    pixels = [np.full((24, 24), grey, np.uint8) for grey in (40, 60, 200, 220)]
    return behaviour(model, eyes, [TestCrops("even", pixels, np.array([0, 0, 1, 1]))])


def row(results: Results, name: str, how: str, crops: str = "even") -> dict[str, object]:
    (found,) = (r for r in results.invariances if (r.behaviour, r.change, r.crops) == (name, how, crops))
    return found.model_dump()


class TestChanges:
    @pytest.mark.parametrize(("name", "how"), list(CHANGES))
    def test_leaves_the_eye_recognisable(self, name: str, how: str) -> None:
        """Whatever changed, mirrored back and at one size, the picture still resembles the eye; and it did change."""
        after = changed(name, how)
        assert after.dtype == np.uint8
        same = np.array_equal(after, EYE)
        assert same == (how == "grey as RGB")
        upright = after[:, ::-1] if name == "mirroring" else after
        resized = np.asarray(Image.fromarray(np.ascontiguousarray(upright)).resize(EYE.shape))
        assert np.corrcoef(resized.ravel(), EYE.ravel())[0, 1] > 0.75

    @pytest.mark.parametrize("factor", [0.6, 1.25])
    def test_brightness_scales_and_contrast_spreads(self, factor: float) -> None:
        brighter = changed("brightness", f"× {factor:g}")
        assert brighter.mean() / EYE.mean() == pytest.approx(factor, abs=0.02)
        contrasted = changed("contrast", f"× {factor:g}")
        assert contrasted.mean() == pytest.approx(EYE.mean(), abs=1.5)
        assert contrasted.std() / EYE.std() == pytest.approx(factor, abs=0.03)

    def test_gamma_bends_the_tones_between_black_and_white(self) -> None:
        ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
        bent = changed("gamma", "0.6", ramp)
        assert (bent[0, 0], bent[-1, -1]) == (0, 255)
        assert (bent >= ramp).all()
        assert bent[8, 0] == round(255 * (128 / 255) ** 0.6)

    def test_size_and_quality(self) -> None:
        assert changed("size", "16 px").shape == (16, 16)
        loss = {q: np.abs(changed("JPEG quality", q).astype(int) - EYE).mean() for q in ("30", "50", "75", "95")}
        assert sorted(loss, key=lambda q: loss[q], reverse=True) == list(loss)

    def test_rotation_is_pillows(self) -> None:
        inside = slice(16, -16)
        turned = np.asarray(Image.fromarray(EYE).rotate(10, Image.Resampling.BICUBIC), float)[inside, inside]
        assert np.abs(changed("rotation", "10°")[inside, inside] - turned).mean() < 1

    @given(st.integers(0, 2**32 - 1))
    def test_a_shift_moves_by_as_much_as_it_says(self, seed: int) -> None:
        """A dot in the middle of 64 px lies 6.4 px from there after a shift by 10 %."""
        dot = np.zeros((64, 64), np.uint8)
        dot[30:34, 30:34] = 200
        after = CHANGES["crop shift", "10%"](dot, np.random.default_rng(seed))
        assert not isinstance(after, bytes)
        mass = after.astype(float) * (after > 20)
        at = [float((mass.sum(axis=1 - axis) * np.arange(64)).sum() / mass.sum()) for axis in (0, 1)]
        assert np.hypot(at[0] - 31.5, at[1] - 31.5) == pytest.approx(6.4, abs=0.15)

    def test_zoom_enlarges_the_middle(self) -> None:
        square = np.zeros((60, 60), np.uint8)
        square[20:40, 20:40] = 255
        assert np.sqrt((changed("zoom", "× 1.2", square) > 127).sum()) == pytest.approx(24, abs=1)
        assert np.sqrt((changed("zoom", "× 0.9", square) > 127).sum()) == pytest.approx(18, abs=1)

    def test_noise_has_the_deviation_it_says(self) -> None:
        grey = np.full((64, 64), 128, np.uint8)
        assert changed("noise", "8", grey).std() == pytest.approx(8, rel=0.05)

    @pytest.mark.parametrize(("name", "how"), list(REDRAWINGS))
    def test_redrawing_leaves_the_opening(self, name: str, how: str, eyes: list[Eye]) -> None:
        redrawn = [REDRAWINGS[name, how](eye) for eye in eyes]
        assert [eye.opening for eye in redrawn] == [eye.opening for eye in eyes]
        assert redrawn != eyes


@pytest.mark.parametrize("film", FILMS.values())
def test_films_end_with_the_closed_eye(film: object, eyes: list[Eye]) -> None:
    assert callable(film)
    frames = film(eyes[1])
    from_start = [float(np.abs(frame.astype(float) - frames[0]).mean()) for frame in frames]
    assert sorted(from_start) == from_start
    assert from_start[-1] > 5


class TestBehaviour:
    def test_what_a_model_of_brightness_minds(self, brightness: Results) -> None:
        """The thresholds are 0.25 and 0.75 of white: 40 and 60 are closed, 200 and 220 open."""
        dimmed = row(brightness, "brightness", "× 0.6")
        assert (dimmed["changed"], dimmed["reversed"], dimmed["passed"]) == (0.25, 0.0, False)  # 200 → 120; 220 → 132
        assert dimmed["difference"] == pytest.approx((40 + 60 + 200 + 220) * 0.4 / 4 / 255, abs=0.002)
        assert dimmed["eer"] == 0
        mirrored = row(brightness, "mirroring", "left for right")
        assert (mirrored["changed"], mirrored["difference"], mirrored["passed"]) == (0, 0, True)
        assert any(failure.startswith("brightness, × 0.6, even: 25.0%") for failure in brightness.failures)

    def test_such_a_model_does_not_see_an_eye_close(self, brightness: Results) -> None:
        assert [direction.passed for direction in brightness.directions] == [False, False]
        assert any(failure.startswith("generated: EER") for failure in brightness.failures)
        assert not any(failure.startswith("even: EER") for failure in brightness.failures)

    def test_a_model_that_knows_does(self, manifest: Card, eyes: list[Eye]) -> None:
        results = behaviour(Oracle(manifest, eyes[:2]), eyes[:2])
        for direction in results.directions:
            assert (direction.falling, direction.fall, direction.passed) == (1, 1, True)
            assert direction.correlation == pytest.approx(1)
        (undisturbed,) = results.undisturbed
        assert (undisturbed.crops, undisturbed.n) == (GENERATED, 2)

    def test_every_behaviour_has_a_row_for_each_kind(self, brightness: Results) -> None:
        text = table(brightness)
        for name, limit in LIMITS.items():
            assert f"| {name} | {limit} | {GENERATED} |" in text
            redrawn = name in {redrawing for redrawing, _ in REDRAWINGS}
            assert (f"| {name} | {limit} | even |" in text) != redrawn
        widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
        assert widths == {6, 9, 7}

    def test_results_survive_their_file(self, brightness: Results, tmp_path: Path) -> None:
        path = tmp_path / "reports" / "behaviour.json"
        write(brightness, path)
        assert Results.model_validate_json(path.read_bytes()) == brightness
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_passing_is_by_the_limit(self, brightness: Results) -> None:
        for found in brightness.invariances:
            assert found.passed == (found.changed <= MAX_CHANGED and found.reversed <= 0.01)


def test_a_sample_is_spread_over_all_crops() -> None:
    crops = [LabelledCrop(str(i), jpeg(pixels), label) for i, (pixels, label) in enumerate(labelled(10, seed=0))]
    assert len(sample("all", crops, 10).pixels) == 10
    few = sample("few", crops, 4)
    assert few.labels.tolist() == [crops[i].label for i in (0, 3, 6, 9)]
