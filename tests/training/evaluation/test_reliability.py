from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.reliability import Bin, expected_calibration_error, reliability

judged = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=80)


def binned(crops: list[tuple[float, int]], bins: int) -> list[Bin]:
    return reliability([score for score, _ in crops], [label for _, label in crops], bins)


@given(judged, st.integers(1, 12), st.permutations(range(80)))
def test_bins_hold_every_crop_once_whatever_their_order(
    crops: list[tuple[float, int]], bins: int, order: list[int]
) -> None:
    found = binned(crops, bins)
    assert sum(item.n for item in found) == len(crops)
    assert len(found) <= bins
    assert sum(item.n * item.open.value for item in found) == pytest.approx(sum(label for _, label in crops))
    shuffled = binned([crops[i] for i in order if i < len(crops)], bins)
    assert [item.n for item in shuffled] == [item.n for item in found]
    assert [item.open for item in shuffled] == [item.open for item in found]
    assert 0 <= expected_calibration_error(found) <= 1


def test_distinct_scores_fill_bins_of_equal_mass() -> None:
    found = reliability(np.linspace(0, 1, 100), np.zeros(100, dtype=int))
    assert [item.n for item in found] == [10] * 10
    assert [item.score for item in found] == sorted(item.score for item in found)


def test_honest_scores_have_a_small_error_and_bragging_ones_a_large_one() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(size=20_000)
    labels = (random.uniform(size=scores.size) < scores).astype(int)
    assert expected_calibration_error(reliability(scores, labels)) < 0.01
    assert expected_calibration_error(reliability(scores > 0.5, labels)) == pytest.approx(0.25, abs=0.01)


def test_the_error_is_the_mean_distance() -> None:
    found = reliability([0.0, 0.0, 1.0, 1.0], [0, 1, 1, 1], bins=2)
    assert [(item.n, item.score, item.open.value) for item in found] == [(2, 0, 0.5), (2, 1, 1)]
    assert expected_calibration_error(found) == pytest.approx(0.25)


@pytest.mark.parametrize(("scores", "labels"), [([], []), ([0.5], [0, 1])])
def test_refuses_what_is_no_sample(scores: list[float], labels: list[int]) -> None:
    with pytest.raises(ValueError, match="one length"):
        reliability(scores, labels)
