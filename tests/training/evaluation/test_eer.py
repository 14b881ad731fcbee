"""Equal error rate, error rates and the metric, each against a second way to compute it."""

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
