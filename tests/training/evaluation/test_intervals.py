"""Confidence intervals: Wilson's against published values, the bootstrap's against one by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.eer import Labels, Scores, equal_error_rate
from training.evaluation.intervals import bootstrap_eer, wilson


def sane(n: int = 400, seed: int = 0) -> tuple[Scores, Labels]:
    """Overlapping scores of as many open as closed eyes; about one in six is on the wrong side."""
    labels = np.arange(n) % 2
    return np.random.default_rng(seed).normal(2 * labels, 1), labels


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857, Table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000), st.data())
def test_wilson_holds_the_share(n: int, data: st.DataObject) -> None:
    interval = wilson(data.draw(st.integers(0, n)), n)
    assert interval is not None
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_share_of_nothing() -> None:
    assert wilson(0, 0) is None


@pytest.mark.parametrize(("n_closed", "n_open"), [(40, 30), (6, 1), (1, 5)])
def test_interval_is_that_of_a_bootstrap_by_hand(n_closed: int, n_open: int) -> None:
    labels = np.repeat([0, 1], [n_closed, n_open])
    scores = np.random.default_rng(1).normal(labels, 1)
    random = np.random.default_rng(7)
    samples: list[float] = []
    while len(samples) < 60:
        drawn = random.integers(0, labels.size, labels.size)
        if set(labels[drawn]) == {0, 1}:
            samples.append(equal_error_rate(scores[drawn], labels[drawn]))
    interval = bootstrap_eer(scores, labels, rounds=60, seed=7)
    assert interval.low == pytest.approx(np.percentile(samples, 2.5), abs=1e-12)
    assert interval.high == pytest.approx(np.percentile(samples, 97.5), abs=1e-12)


def test_interval_is_of_a_thousand_rounds_seeded_with_zero() -> None:
    assert bootstrap_eer(*sane(60)) == bootstrap_eer(*sane(60), rounds=1_000, seed=0)


def test_interval_lies_around_the_value() -> None:
    interval = bootstrap_eer(*sane(), rounds=300)
    assert interval.value == equal_error_rate(*sane())
    assert 0 < interval.low < interval.value < interval.high < 0.5


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    truth = 0.158655  # of two normal distributions two standard deviations apart
    intervals = [bootstrap_eer(*sane(200, seed), rounds=100, seed=seed) for seed in range(60)]
    assert 0.85 < np.mean([i.low <= truth <= i.high for i in intervals]) <= 1


def test_interval_narrows_with_more_crops() -> None:
    few, many = bootstrap_eer(*sane(100), rounds=200), bootstrap_eer(*sane(2_500), rounds=200)
    assert many.high - many.low < (few.high - few.low) / 2


def test_interval_is_decided_by_the_seed() -> None:
    assert bootstrap_eer(*sane(), rounds=50, seed=3) == bootstrap_eer(*sane(), rounds=50, seed=3)
    assert bootstrap_eer(*sane(), rounds=50, seed=3) != bootstrap_eer(*sane(), rounds=50, seed=4)


def test_frames_of_few_people_say_less_than_their_number() -> None:
    people, frames = 12, 50
    labels = np.tile([0, 1], people * frames // 2)
    subjects = [f"s{i // frames:04}" for i in range(labels.size)]
    chance = np.random.default_rng(0)
    scores = 2 * labels + np.repeat(chance.normal(size=people), frames) + chance.normal(0, 0.1, labels.size)
    by_crop, by_subject = bootstrap_eer(scores, labels, rounds=200), bootstrap_eer(scores, labels, subjects, rounds=200)
    assert by_subject.value == by_crop.value
    assert by_subject.high - by_subject.low > 2 * (by_crop.high - by_crop.low)


def test_groups_of_one_crop_are_crops() -> None:
    scores, labels = sane(200)
    singles = [f"{i:03}" for i in range(200)]
    assert bootstrap_eer(scores, labels, singles, rounds=50) == bootstrap_eer(scores, labels, rounds=50)


@pytest.mark.parametrize(
    ("groups", "low", "high"),
    [
        (["a", "a", "b", "b"], 0.5, 0.5),  # half of the draws hold one class only and are drawn again
        (["a", "a", "a", "a"], 0.5, 0.5),
        (["a", "b", "b", "b"], 0.0, 1.0),
    ],
)
def test_draws_that_lack_a_class_are_drawn_again(groups: list[str], low: float, high: float) -> None:
    interval = bootstrap_eer([0.1, 0.6, 0.4, 0.9], [0, 0, 1, 1], groups, rounds=200)
    assert interval.value == 0.5
    assert low <= interval.low <= interval.high <= high


def test_groups_must_be_as_many_as_the_scores() -> None:
    with pytest.raises(ValueError, match="got 3 and 4"):
        bootstrap_eer([0.1, 0.6, 0.4, 0.9], [0, 0, 1, 1], ["a", "b", "c"])
