"""How well scores are calibrated: reliability by bins of equal size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from training.evaluation.intervals import Interval, wilson

BINS: Final = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Crops of neighbouring scores: how many, their mean score, and the share of open eyes with Wilson's interval."""

    n: int
    score: float
    open: Interval


def reliability(scores: npt.ArrayLike, labels: npt.ArrayLike, bins: int = BINS) -> list[Bin]:
    """Sort the crops into bins of equal mass by score, by rising score.

    Equal scores stay together, so there may be fewer bins than asked for, of unequal size.

    Args:
        scores: N numbers from 0 to 1, P(open).
        labels: N integers, 0 closed and 1 open.
        bins: at most so many.

    Raises:
        ValueError: there are no scores, or they and the labels differ in number.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if s.shape != y.shape or s.ndim != 1 or not s.size:
        raise ValueError(f"scores and labels must be two vectors of one length, got {s.shape} and {y.shape}")
    edges = np.unique(np.quantile(s, np.arange(1, bins) / bins, method="inverted_cdf"))
    place = np.searchsorted(edges, s)
    found = []
    for number in np.unique(place):
        inside = place == number
        share = wilson(int(y[inside].sum()), int(inside.sum()))
        assert share is not None  # a bin holds at least one crop
        found.append(Bin(int(inside.sum()), float(s[inside].mean()), share))
    return found


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """The mean distance between score and share of open eyes over the bins, by their size (Naeini et al. 2015)."""
    total = sum(item.n for item in bins)
    return sum(item.n * abs(item.open.value - item.score) for item in bins) / total
