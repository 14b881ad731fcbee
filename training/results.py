"""A model's scores on labelled crops, summed up: error rates with intervals, slices, thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eyestate.bundle import Metric
from training.data import ATTRIBUTES, Crop
from training.evaluate import Labels, Scores, bootstrap_eer, equal_error_rate

SLICED: tuple[str, ...] = ("glasses", "reflections", "light", "sensor", "gender")


@dataclass(frozen=True, slots=True)
class Judged:
    """Labelled crops and the scores (N,) a model gave them."""

    crops: Sequence[Crop]
    scores: Scores

    @property
    def labels(self) -> Labels:
        return np.array([crop.label for crop in self.crops])

    @property
    def subjects(self) -> list[str]:
        return [str(crop.subject) for crop in self.crops]

    def where(self, chosen: npt.NDArray[np.bool_]) -> Judged:
        """The crops for which ``chosen`` (N,) is true."""
        return Judged([crop for crop, keep in zip(self.crops, chosen, strict=True) if keep], self.scores[chosen])


@dataclass(frozen=True, slots=True)
class Slice:
    """The EER within one part of the crops; None where the part lacks open or closed eyes."""

    attribute: str
    value: str
    crops: int
    open_share: float
    eer: float | None


@dataclass(frozen=True, slots=True)
class Band:
    """The scores between which a crop is called uncertain."""

    closed: float
    open: float


def eer_metrics(name: str, judged: Judged) -> list[Metric]:
    """The EER twice: with the interval over subjects, and with the narrower one over crops."""
    intervals = {
        "95 % bootstrap over subjects": bootstrap_eer(judged.scores, judged.labels, judged.subjects),
        "95 % bootstrap over crops": bootstrap_eer(judged.scores, judged.labels),
    }
    return [
        Metric(name=name, value=i.value, low=i.low, high=i.high, n=len(judged.crops), interval=kind)
        for kind, i in intervals.items()
    ]


def slices(judged: Judged) -> list[Slice]:
    """The EER by MRL's attributes and by subject."""
    result = []
    for attribute in (*SLICED, "subject"):
        values = [getattr(crop, attribute) for crop in judged.crops]
        for value in sorted(set(values)):
            part = judged.where(np.array([v == value for v in values]))
            both = 0 < part.labels.sum() < len(part.crops)
            result.append(
                Slice(
                    attribute=attribute,
                    value=ATTRIBUTES.get(attribute, {}).get(value, str(value)),
                    crops=len(part.crops),
                    open_share=float(part.labels.mean()),
                    eer=equal_error_rate(part.scores, part.labels) if both else None,
                )
            )
    return result


def uncertain_band(judged: Judged, max_wrong: float) -> Band:
    """The narrowest band of scores outside which at most ``max_wrong`` of the crops called open, and of those called
    closed, are not.

    Open and closed eyes count as equally frequent. The band always spans 0.4 to 0.6: so close to a coin toss nobody
    should read a verdict. Where no score is that sure the band reaches to 0 or 1.

    Raises:
        ValueError: one class is missing.
    """
    at = np.unique(judged.scores)
    closed, open_ = (np.sort(judged.scores[judged.labels == label]) for label in (0, 1))
    if not closed.size or not open_.size:
        raise ValueError("thresholds need both open and closed eyes")
    closed_from, open_from = (1 - np.searchsorted(group, at, "left") / group.size for group in (closed, open_))
    closed_to, open_to = (np.searchsorted(group, at, "right") / group.size for group in (closed, open_))
    good_open = at[(at >= 0.6) & (closed_from <= max_wrong * (closed_from + open_from))]
    good_closed = at[(at <= 0.4) & (open_to <= max_wrong * (open_to + closed_to))]
    return Band(closed=float(good_closed.max(initial=0)), open=float(good_open.min(initial=1)))
