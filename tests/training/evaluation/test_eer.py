"""Equal error rate, error rates, bootstrap intervals and the metric, each against a second way to compute it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from training.evaluation.eer import EqualErrorRate, Labels, Scores, equal_error_rate, error_rates
from training.evaluation.intervals import bootstrap_eer


@st.composite
def scored(draw: st.DrawFn) -> tuple[list[float], list[int]]:
    """Scores and labels of both classes: few or many, distinct, tied, heavily tied or constant."""
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=60))]
    score = draw(st.sampled_from([st.floats(0, 1), st.floats(-1e6, 1e6), st.integers(0, 5), st.integers(0, 1)]))
    return [draw(score) for _ in labels], labels


def sane(n: int = 400, seed: int = 0) -> tuple[Scores, Labels]:
    """Overlapping scores of as many open as closed eyes; about one in six is on the wrong side."""
    labels = np.arange(n) % 2
    return np.random.default_rng(seed).normal(2 * labels, 1), labels


def eer_by_sklearn(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    false_positives, true_positives, _ = roc_curve(labels, scores, drop_intermediate=False)
    return float(np.interp(0, false_positives + true_positives - 1, false_positives))


# Equal error rate


@settings(deadline=None, max_examples=300)
@given(scored())
def test_eer_is_where_sklearns_roc_curve_crosses_the_diagonal(data: tuple[list[float], list[int]]) -> None:
    assert equal_error_rate(*data) == pytest.approx(eer_by_sklearn(*data), abs=1e-12)


@pytest.mark.parametrize("n_closed", [1, 7, 5_000])
@pytest.mark.parametrize("n_open", [1, 3, 4_000])
@pytest.mark.parametrize("levels", [2, 50, 10**9])
def test_eer_of_unequal_classes(n_closed: int, n_open: int, levels: int) -> None:
    labels = np.repeat([0, 1], [n_closed, n_open])
    scores = np.random.default_rng(0).integers(0, levels, labels.size) + labels * levels / 3
    assert equal_error_rate(scores, labels) == pytest.approx(eer_by_sklearn(scores, labels), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 1),
        ([0.5, 0.5, 0.5, 0.5], [0, 0, 0, 1], 0.5),
        ([0.1, 0.6, 0.4, 0.9], [0, 0, 1, 1], 0.5),  # FAR = FRR at every threshold from 0.4 to 0.6
        ([0.1, 0.2, 0.3, 0.6, 0.4, 0.7, 0.8, 0.9], [0, 0, 0, 0, 1, 1, 1, 1], 0.25),
        ([0.3, 0.1, 0.2, 0.4, 0.5], [1, 0, 0, 0, 0], 0.5),  # one open eye, in the middle of the closed ones
        ([-1.7e308, 1.7e308], [0, 1], 0),
    ],
)
def test_eer_by_hand(scores: list[float], labels: list[int], expected: float) -> None:
    assert equal_error_rate(scores, labels) == pytest.approx(expected, abs=1e-12)


@given(scored())
def test_eer_depends_on_the_order_alone(data: tuple[list[float], list[int]]) -> None:
    scores, labels = np.asarray(data[0]), np.asarray(data[1])
    eer = equal_error_rate(scores, labels)
    _, ranks = np.unique(scores, return_inverse=True)
    assert equal_error_rate(ranks, labels) == eer
    assert equal_error_rate(-scores, 1 - labels) == pytest.approx(eer, abs=1e-12)
    assert equal_error_rate(-scores, labels) == pytest.approx(1 - eer, abs=1e-12)


# Error rates


@given(scored())
def test_error_rates_are_shares_of_wrong_decisions(data: tuple[list[float], list[int]]) -> None:
    scores, labels = np.asarray(data[0], dtype=np.float64), np.asarray(data[1])
    rates = error_rates(scores, labels)
    for threshold, far, frr in zip(rates.thresholds, rates.far, rates.frr, strict=True):
        accepted = scores >= threshold
        assert far == pytest.approx(accepted[labels == 0].mean(), abs=1e-12)
        assert frr == pytest.approx((~accepted)[labels == 1].mean(), abs=1e-12)


@given(scored())
def test_error_rates_run_from_none_accepted_to_all(data: tuple[list[float], list[int]]) -> None:
    rates = error_rates(*data)
    assert rates.thresholds.tolist() == [np.inf, *sorted(set(map(float, data[0])), reverse=True)]
    assert (rates.far[0], rates.frr[0]) == (0, 1)
    assert (rates.far[-1], rates.frr[-1]) == (1, 0)
    assert all(before <= after for before, after in pairwise(rates.far))
    assert all(before >= after for before, after in pairwise(rates.frr))


@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([], [], "both open and closed"),
        ([0.1, 0.2], [1, 1], "both open and closed"),
        ([0.1, 0.2], [0, 0], "both open and closed"),
        ([0.1, np.nan], [0, 1], "infinite or NaN"),
        ([0.1, np.inf], [0, 1], "infinite or NaN"),
        ([0.1, 0.2], [-1, 1], "neither 0 .* nor 1"),
        ([0.1, 0.2, 0.3], [0, 1, 2], "neither 0 .* nor 1"),
        ([0.1, 0.2, 0.3], [0, 1], r"\(3,\) and \(2,\)"),
        ([[0.1, 0.2]], [[0, 1]], r"\(1, 2\) and \(1, 2\)"),
    ],
)
def test_scores_without_error_rates(scores: npt.ArrayLike, labels: npt.ArrayLike, reason: str) -> None:
    for compute in (error_rates, equal_error_rate, bootstrap_eer):
        with pytest.raises(ValueError, match=reason):
            compute(scores, labels)


# Bootstrap


@pytest.mark.parametrize(("n_closed", "n_open"), [(40, 30), (6, 1), (1, 5)])
def test_interval_is_that_of_a_bootstrap_by_hand(n_closed: int, n_open: int) -> None:
    labels = np.repeat([0, 1], [n_closed, n_open])
    scores = np.random.default_rng(1).normal(labels, 1)
    random = np.random.default_rng(7)
    samples: list[float] = []
    while len(samples) < 60:
        drawn = random.integers(0, labels.size, labels.size)
        if set(labels[drawn]) == {0, 1}:
            samples.append(eer_by_sklearn(scores[drawn], labels[drawn]))
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


# Metric


@pytest.mark.parametrize("batch", [1, 3, 64, 1_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_metric_of_batches_is_the_function_of_all(batch: int, dtype: torch.dtype) -> None:
    scores = torch.from_numpy(sane()[0]).to(dtype)
    labels = torch.from_numpy(sane()[1])
    metric = EqualErrorRate()
    for score, label in zip(torch.split(scores, batch), torch.split(labels, batch), strict=True):
        metric.update(score, label)
    assert metric.compute().item() == pytest.approx(equal_error_rate(scores.float().numpy(), labels.numpy()), abs=1e-7)


def test_metric_forgets_on_reset() -> None:
    metric = EqualErrorRate()
    metric.update(torch.tensor([0.9, 0.1]), torch.tensor([0, 1]))
    assert metric.compute().item() == 1
    metric.reset()
    metric.update(torch.tensor([0.9, 0.1]), torch.tensor([1, 0]))
    assert metric.compute().item() == 0


def test_metric_gives_each_batchs_value_and_goes_on() -> None:
    metric = EqualErrorRate()
    assert metric(torch.tensor([0.1, 0.9]), torch.tensor([0, 1])).item() == 0
    assert metric(torch.tensor([0.6, 0.4]), torch.tensor([0, 1])).item() == 1
    assert metric.compute().item() == equal_error_rate([0.1, 0.9, 0.6, 0.4], [0, 1, 0, 1]) == 0.5


@pytest.mark.parametrize("label", [0, 1])
def test_metric_of_one_class_is_nan(label: int) -> None:
    metric = EqualErrorRate()
    metric.update(torch.tensor([0.2, 0.7]), torch.tensor([label, label]))
    assert metric.compute().isnan()


def test_metric_is_better_when_lower() -> None:
    assert EqualErrorRate().higher_is_better is False


def test_metric_of_nothing_is_nan() -> None:
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert EqualErrorRate().compute().isnan()
