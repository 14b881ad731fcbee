"""Error rates at every threshold, and the equal error rate (EER)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchmetrics
from torchmetrics.utilities.data import dim_zero_cat

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """False acceptance and false rejection of "open" at each threshold, by falling threshold.

    A crop is accepted as open when its score is at least the threshold. FAR is the share of closed eyes accepted,
    FRR the share of open eyes rejected. The first threshold is +infinity: FAR 0, FRR 1.
    """

    thresholds: Scores
    far: Scores
    frr: Scores


def error_rates(scores: npt.ArrayLike, labels: npt.ArrayLike) -> ErrorRates:
    """FAR and FRR at every distinct score.

    Args:
        scores: N finite numbers, higher for open.
        labels: N integers, 0 closed and 1 open; both must occur.

    Raises:
        ValueError: the lengths differ, a score is infinite or NaN, a label is neither 0 nor 1, or one class is missing.
    """
    s = np.asarray(scores, dtype=np.float64)
    y = np.asarray(labels, dtype=np.int64)
    if s.shape != y.shape or s.ndim != 1:
        raise ValueError(f"scores and labels must be two vectors of one length, got {s.shape} and {y.shape}")
    if not np.isfinite(s).all():
        raise ValueError("a score is infinite or NaN")
    if not np.isin(y, (0, 1)).all():
        raise ValueError("a label is neither 0 (closed) nor 1 (open)")
    n_open = int(y.sum())
    n_closed = y.size - n_open
    if n_open == 0 or n_closed == 0:
        raise ValueError("error rates need both open and closed eyes")
    order = np.argsort(-s, kind="stable")
    s, y = s[order], y[order]
    last_of_ties = np.append(np.flatnonzero(s[1:] != s[:-1]), s.size - 1)
    accepted_open = np.cumsum(y)[last_of_ties]
    accepted_closed = last_of_ties + 1 - accepted_open
    return ErrorRates(
        thresholds=np.concatenate(([np.inf], s[last_of_ties])),
        far=np.concatenate(([0.0], accepted_closed / n_closed)),
        frr=np.concatenate(([1.0], 1 - accepted_open / n_open)),
    )


def equal_error_rate(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The error rate at the threshold where FAR and FRR are equal.

    Both are step functions of the threshold, so they rarely meet exactly. Between the two neighbouring points of the
    ROC curve where FAR − FRR changes sign, both are interpolated linearly, which is where the ROC curve crosses the
    diagonal TPR = 1 − FPR. Scores that are all equal give 0.5, a perfect ranking 0, a reversed one 1.

    Raises:
        ValueError: as ``error_rates``.
    """
    rates = error_rates(scores, labels)
    difference = rates.far - rates.frr  # rises from -1 to 1
    after = int(np.argmax(difference >= 0))
    before = after - 1
    share = -difference[before] / (difference[after] - difference[before])
    return float(rates.far[before] + share * (rates.far[after] - rates.far[before]))


class EqualErrorRate(torchmetrics.Metric):
    """``equal_error_rate`` as a torchmetrics metric; NaN until both classes have been seen."""

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    scores: list[torch.Tensor]
    labels: list[torch.Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch: scores (N,) higher for open, labels (N,) 0 closed or 1 open."""
        self.scores.append(scores.detach().float())
        self.labels.append(labels.detach())

    def compute(self) -> torch.Tensor:
        if len(self.labels) == 0:
            return torch.tensor(torch.nan)
        scores, labels = dim_zero_cat(self.scores), dim_zero_cat(self.labels)
        if labels.min() == labels.max():
            return torch.tensor(torch.nan)
        return torch.tensor(equal_error_rate(scores.cpu().numpy(), labels.cpu().numpy()))
