"""Calibrate scores, so that of the crops scored 0.9 nine in ten are open: by a temperature, where that helps.

Each method is evaluated on subjects it was not fitted on, leaving out one at a time: it must help on unseen subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import LeaveOneGroupOut

from training.evaluation.eer import Labels, Scores
from training.evaluation.logits import log_odds
from training.evaluation.reliability import expected_calibration_error, reliability

AS_TRAINED: Final = "as they ship"
TEMPERATURE: Final = "temperature"
ISOTONIC: Final = "isotonic"
_STRICTEST: Final = 1e-4  # isotonic scores of 0 and 1 would cost infinite loss on the first exception

Map = Callable[[Scores], Scores]


@dataclass(frozen=True, slots=True)
class Fit:
    """A calibration method on subjects it was not fitted on: log-loss (nats per crop), expected calibration error."""

    method: str
    loss: float
    error: float


def fit_temperature(scores: Scores, labels: Labels) -> float:
    """What to divide the logits by for the lowest log-loss (Guo et al. 2017), from a tenth to ten.

    Args:
        scores: (N,) P(open).
        labels: (N,), 0 closed and 1 open.
    """
    logits = log_odds(scores).astype(np.float64)

    def loss(log_temperature: float) -> float:
        z = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, z) - labels * z))

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.1), np.log(10)), method="bounded").x))


def apply_temperature(scores: Scores, temperature: float) -> Scores:
    """The scores (N,) with their logits divided by a temperature."""
    result: Scores = 1 / (1 + np.exp(-log_odds(scores).astype(np.float64) / temperature))
    return result


def compare(scores: Scores, labels: Labels, people: Sequence[str]) -> list[Fit]:
    """Each calibration method, evaluated on every subject by a fit on all others.

    Args:
        scores: (N,) P(open).
        labels: (N,), 0 closed and 1 open.
        people: N names; at least two differ.

    Raises:
        ValueError: there is one person only.
    """
    found = []
    for method, fit in _METHODS.items():
        calibrated = np.empty_like(scores)
        for known, unknown in LeaveOneGroupOut().split(scores, labels, people):
            calibrated[unknown] = fit(scores[known], labels[known])(scores[unknown])
        found.append(Fit(method, log_loss(calibrated, labels), error(calibrated, labels)))
    return found


def choose_temperature(scores: Scores, labels: Labels, people: Sequence[str]) -> float:
    """The temperature fitted on all, or 1 where temperatures do not lower the loss on people left out.

    With a single subject this cannot be tested, and it is 1.
    """
    if len(set(people)) == 1:
        return 1.0
    loss = {fit.method: fit.loss for fit in compare(scores, labels, people)}
    return fit_temperature(scores, labels) if loss[TEMPERATURE] < loss[AS_TRAINED] else 1.0


def log_loss(scores: Scores, labels: Labels) -> float:
    """Mean of -ln P(label), nats per crop."""
    z = log_odds(scores).astype(np.float64)
    return float(np.mean(np.logaddexp(0, z) - labels * z))


def error(scores: Scores, labels: Labels) -> float:
    """Expected calibration error over bins of equal size."""
    return expected_calibration_error(reliability(scores, labels))


def _isotonic(scores: Scores, labels: Labels) -> Map:
    fitted = IsotonicRegression(out_of_bounds="clip", y_min=_STRICTEST, y_max=1 - _STRICTEST).fit(scores, labels)
    return lambda new: np.asarray(fitted.predict(new))


def _temperature(scores: Scores, labels: Labels) -> Map:
    temperature = fit_temperature(scores, labels)
    return lambda new: apply_temperature(new, temperature)


def _as_trained(scores: Scores, labels: Labels) -> Map:
    del scores, labels
    return lambda new: new


_METHODS: Final[dict[str, Callable[[Scores, Labels], Map]]] = {
    AS_TRAINED: _as_trained,
    TEMPERATURE: _temperature,
    ISOTONIC: _isotonic,
}


def errors(scores: Scores, labels: Labels, new: Scores, truth: Labels) -> dict[str, float]:
    """The expected calibration error of each calibration method on new crops.

    Args:
        scores, labels: (N,) what it is fitted on.
        new, truth: (M,) scores and labels of other crops.
    """
    return {method: error(fit(scores, labels)(new), truth) for method, fit in _METHODS.items()}


def section(fits: Sequence[Fit], errors: Mapping[str, Mapping[str, float]]) -> str:
    """The section on calibration of a model card, in Markdown.

    Args:
        fits: of ``compare``.
        errors: of ``errors``, by kind of crops.
    """
    rows = [
        [fit.method, f"{fit.loss:.4f}", f"{fit.error:.4f}", *(f"{found[fit.method]:.4f}" for found in errors.values())]
        for fit in fits
    ]
    heads = ["Scores", "Log-loss, subjects left out", "ECE, subjects left out", *(f"ECE, {kind}" for kind in errors)]
    return "\n".join(
        [
            "Expected calibration error (ECE, ten bins of equal size) of the scores as they ship, and of fits on MRL's",
            "people as networks score them that never saw them: judged on each person by a fit on the others, and on",
            "other crops.",
            "",
            f"| {' | '.join(heads)} |",
            f"|---{'|--:' * (len(heads) - 1)}|",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )
