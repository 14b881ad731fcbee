"""Drift: how far recent crops are from those the model was made for, as population stability indices.

The index of a feature (score, width, brightness, sharpness) compares the shares of its values in bins, recent crops
against a reference, that in the model's manifest or the user's own: the sum of (recent - reference) ·
ln(recent / reference). By the usual rule of thumb an index below 0.1 means no drift, and one above 0.2 calls for an
investigation (docs/metrics.md has measured examples).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from eyestate.bundle import Distribution, Feature, Reference, Thresholds

Source = Literal["crops", "faces"]  # crops as they were sent, or as they were cut from photos of faces

SOURCES: Final[tuple[Source, ...]] = get_args(Source)
EDGES: Final[dict[Feature, tuple[float, ...]]] = {
    "score": (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999),
    "width": (12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024),
    "brightness": (20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220, 240),
    "sharpness": (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 2.0),
}
HALF_LIFE: Final = 10_000  # crops after which the weight of a crop has halved
LEAST: Final = 500  # crops; with fewer, chance alone can push an index to 0.2
FLOOR: Final = 0.001  # smaller shares are raised to it: an empty bin would make the index infinite

Values = npt.NDArray[np.float64]


def reference(data: str, values: Mapping[Feature, Values], thresholds: Thresholds) -> Reference:
    """The reference for a manifest.

    Args:
        data: where the crops come from.
        values: of each feature, float64 (N,).
        thresholds: of the model.
    """
    scores = values["score"]
    return Reference(
        data=data,
        crops=len(scores),
        uncertain=float(_uncertain(scores, thresholds).mean()),
        features={
            feature: Distribution(edges=list(edges), shares=(_counts(values[feature], edges) / len(scores)).tolist())
            for feature, edges in EDGES.items()
        },
    )


def psi(expected: npt.ArrayLike, actual: npt.ArrayLike) -> float:
    """Population stability index of two distributions over the same bins, each (bins,), adding up to 1."""
    e, a = np.maximum(expected, FLOOR), np.maximum(actual, FLOOR)
    return float(((a - e) * np.log(a / e)).sum())


class Drift:
    """Compares the recent crops of one process with the reference; older crops fade out."""

    def __init__(self, against: Reference | None, thresholds: Thresholds) -> None:
        """Args:
        against: the reference; without one there are no indices.
        thresholds: of the model.
        """
        self._reference = against.features if against else {}
        self._thresholds = thresholds
        self._counts: dict[Feature, Values] = {name: np.zeros(len(f.shares)) for name, f in self._reference.items()}
        self._verdicts: Values = np.zeros(2)  # sure, uncertain

    def add(self, feature: Feature, values: Values) -> None:
        """Add the values, float64 (N,), of the newest crops."""
        if feature == "score":
            uncertain = _uncertain(values, self._thresholds).sum()
            self._verdicts = _faded(self._verdicts, np.array([len(values) - uncertain, uncertain]))
        if feature in self._reference:
            edges = self._reference[feature].edges
            self._counts[feature] = _faded(self._counts[feature], _counts(values, edges))

    def indices(self) -> dict[Feature, float]:
        """The index of every feature for which at least ``LEAST`` crops were seen."""
        return {
            feature: psi(self._reference[feature].shares, counts / counts.sum())
            for feature, counts in self._counts.items()
            if counts.sum() >= LEAST
        }

    def uncertain(self) -> float | None:
        """The share of recent crops between the thresholds; None until ``LEAST`` were seen."""
        crops = self._verdicts.sum()
        return float(self._verdicts[1] / crops) if crops >= LEAST else None


def _uncertain(scores: Values, thresholds: Thresholds) -> npt.NDArray[np.bool_]:
    return (scores > thresholds.closed) & (scores < thresholds.open)


def _counts(values: Values, edges: npt.ArrayLike) -> Values:
    return np.bincount(np.searchsorted(edges, values), minlength=np.size(edges) + 1).astype(np.float64)


def _faded(counts: Values, newest: Values) -> Values:
    remaining: float = 0.5 ** (newest.sum() / HALF_LIFE)
    return counts * remaining + newest
