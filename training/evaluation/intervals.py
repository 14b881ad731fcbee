"""95 % confidence intervals: Wilson's of a share, the bootstrap's of an EER."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from training.evaluation.eer import equal_error_rate


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, n: int) -> Interval | None:
    """A share with its 95 % score interval (Wilson 1927); None for a share of nothing."""
    if n == 0:
        return None
    bounds = binomtest(successes, n).proportion_ci(method="wilson")
    return Interval(successes / n, float(bounds.low), float(bounds.high))


def bootstrap_eer(
    scores: npt.ArrayLike, labels: npt.ArrayLike, groups: Sequence[str] | None = None, rounds: int = 1000, seed: int = 0
) -> Interval:
    """EER with its 95 % percentile-bootstrap interval (Efron 1979).

    Args:
        scores, labels: as ``error_rates``.
        groups: where given, whole groups (subjects) are drawn instead of single crops: the honest interval for video
            frames, wide when there are few groups. Draws that lack a class are drawn again.
        rounds: bootstrap samples.
        seed: of the random draws.

    Raises:
        ValueError: as ``error_rates``, or the groups are not as many as the scores.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    value = equal_error_rate(s, y)
    if groups is not None and len(groups) != s.size:
        raise ValueError(f"groups and scores must have one length, got {len(groups)} and {s.size}")
    members = [np.flatnonzero(np.asarray(groups) == group) for group in sorted(set(groups or ()))]
    random = np.random.default_rng(seed)

    def draw() -> npt.NDArray[np.int64]:
        if groups is None:
            return random.integers(0, s.size, s.size)
        return np.concatenate([members[i] for i in random.integers(0, len(members), len(members))])

    samples: list[float] = []
    while len(samples) < rounds:  # ends: at least half of all draws hold both classes, however few the groups
        chosen = draw()
        if 0 < y[chosen].sum() < chosen.size:
            samples.append(equal_error_rate(s[chosen], y[chosen]))
    low, high = np.quantile(samples, [0.025, 0.975])
    return Interval(value, float(low), float(high))
