from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from tests.training.conftest import jpeg
from training.data.datasets import Crop, LabelledCrop
from training.data.synthetic import labelled
from training.evaluation.eer import equal_error_rate
from training.evaluation.results import ScoredCrops, brightness, eer_metrics, sharpness, slices, thirds, uncertain_band

IMAGES = [jpeg(np.full((8, 8), tone, dtype=np.uint8)) for tone in (40, 120, 200)]


def scored(scores: list[float], labels: list[int], **attributes: list[Any]) -> ScoredCrops:
    crops = [
        LabelledCrop(
            str(i),
            IMAGES[i % len(IMAGES)],
            label,
            f"s{i % 3}",
            **{name: values[i] for name, values in attributes.items()},
        )
        for i, label in enumerate(labels)
    ]
    return ScoredCrops(crops, np.array(scores))


def noisy(n: int, seed: int = 0) -> ScoredCrops:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, n)
    scores = 1 / (1 + np.exp(-random.normal(5 * (labels - 0.5), 2)))
    return scored(scores.tolist(), labels.tolist(), glasses=random.integers(0, 2, n).tolist())


class TestBand:
    def test_clear_scores_leave_only_the_middle(self) -> None:
        band = uncertain_band(scored([0.01, 0.4, 0.6, 0.99], [0, 0, 1, 1]), 0.005)
        assert (band.closed, band.open) == (0.4, 0.6)

    @given(st.integers(0, 50), st.sampled_from([0.01, 0.02, 0.05]))
    def test_outside_it_few_verdicts_are_wrong(self, seed: int, max_wrong: float) -> None:
        data = noisy(2000, seed)
        band = uncertain_band(data, max_wrong)
        called_open, called_closed = data.scores >= band.open, data.scores <= band.closed
        open_, closed = data.labels == 1, data.labels == 0
        open_rates = [called_open[group].mean() for group in (open_, closed)]
        closed_rates = [called_closed[group].mean() for group in (closed, open_)]
        for right, wrong in (open_rates, closed_rates):
            assert wrong / (right + wrong) <= max_wrong + 1e-9

    def test_a_stricter_band_is_wider(self) -> None:
        strict, loose = (uncertain_band(noisy(2000), wrong) for wrong in (0.005, 0.05))
        assert strict.closed <= loose.closed < loose.open <= strict.open
        assert strict.open - strict.closed > loose.open - loose.closed

    def test_hopeless_scores_are_all_uncertain(self) -> None:
        band = uncertain_band(scored([0.9, 0.9, 0.1, 0.1], [0, 1, 0, 1]), 0.01)
        assert (band.closed, band.open) == (0, 1)

    def test_one_class(self) -> None:
        with pytest.raises(ValueError, match="both"):
            uncertain_band(scored([0.9, 0.8], [1, 1]), 0.01)


def test_metrics_give_both_intervals() -> None:
    data = noisy(300)
    over_subjects, over_crops = eer_metrics("EER", data)
    assert over_subjects.value == over_crops.value == equal_error_rate(data.scores, data.labels)
    assert over_crops.low < over_crops.value < over_crops.high
    assert over_subjects.interval != over_crops.interval
    assert over_crops.n == 300


def test_crops_without_subjects_have_one_interval() -> None:
    data = noisy(300)
    nobodys = ScoredCrops([dataclasses.replace(crop, subject=None) for crop in data.crops], data.scores)
    (over_crops,) = eer_metrics("EER", nobodys)
    assert over_crops.interval == "95 % bootstrap over crops"


class TestThirds:
    def test_by_brightness(self) -> None:
        crops = [Crop("", image) for image in IMAGES]
        assert [name.split(" third")[0] for name in thirds(crops, brightness)] == ["lowest", "middle", "top"]

    def test_blur_is_less_sharp(self) -> None:
        (pixels, _), *_ = labelled(1, seed=0)
        blurred = np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(4)))
        assert sharpness(blurred) < sharpness(pixels) / 2


def test_slices_cover_each_attribute() -> None:
    data = noisy(200)
    found = slices("a set", data)
    assert {row.of for row in found} == {"a set"}
    rows = {(row.attribute, row.value): row for row in found}
    assert {value for attribute, value in rows if attribute == "glasses"} == {"no", "yes"}
    for name in ("glasses", "brightness", "sharpness", "subject"):
        assert sum(row.crops for (attribute, _), row in rows.items() if attribute == name) == 200
    with_glasses = data.where(np.array([crop.glasses == 1 for crop in data.crops]))
    assert rows["glasses", "yes"].eer == equal_error_rate(with_glasses.scores, with_glasses.labels)


def test_a_slice_of_one_class_has_no_eer() -> None:
    rows = slices("", scored([0.1, 0.6, 0.9, 0.8], [0, 0, 1, 1], light=[0, 0, 1, 0], glasses=[0] * 4))
    light = {row.value: row for row in rows if row.attribute == "light"}
    assert {value: row.eer for value, row in light.items()} == {"bad": 0.0, "good": None}
    assert [light["bad"].wrong, light["good"].wrong] == [pytest.approx(1 / 3), 0]
    assert [light["bad"].open_share, light["good"].open_share] == [pytest.approx(1 / 3), 1]


def test_crops_without_attributes_are_sliced_by_how_they_look() -> None:
    rows = slices("", scored([0.1, 0.2, 0.9], [0, 0, 1]))
    assert {row.attribute for row in rows} == {"brightness", "sharpness"}
