"""A model's scores on labelled crops, summarized: error rates with intervals, slices, thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from eyestate.arrays import Pixels
from eyestate.bundle import Metric
from eyestate.images import decode, to_input
from training.data.datasets import ATTRIBUTES, FAR_SIDE, Crop, LabelledCrop, labels_of
from training.evaluation.eer import Labels, Scores, equal_error_rate
from training.evaluation.intervals import bootstrap_eer

SLICED: tuple[str, ...] = ("glasses", "reflections", "light", "sensor", "gender")


@dataclass(frozen=True, slots=True)
class ScoredCrops:
    """Labelled crops and a model's scores (N,) of them."""

    crops: Sequence[LabelledCrop]
    scores: Scores

    @property
    def labels(self) -> Labels:
        return labels_of(self.crops)

    @property
    def subjects(self) -> list[str]:
        return [str(crop.subject) for crop in self.crops]

    def where(self, chosen: npt.NDArray[np.bool_]) -> ScoredCrops:
        """The crops for which ``chosen`` (N,) is true."""
        return ScoredCrops([crop for crop, keep in zip(self.crops, chosen, strict=True) if keep], self.scores[chosen])


@dataclass(frozen=True, slots=True)
class Slice:
    """The errors within one part of a set of crops.

    ``eer`` is None where the part lacks open or closed eyes; ``wrong`` is the share on the wrong side of 0.5.
    """

    of: str
    attribute: str
    value: str
    crops: int
    open_share: float
    eer: float | None
    wrong: float


@dataclass(frozen=True, slots=True)
class Band:
    """The scores between which a crop is called uncertain."""

    closed: float
    open: float


def eer_metrics(name: str, scored: ScoredCrops) -> list[Metric]:
    """The EER with its interval over crops and, where the crops' subjects are known, the wider one over subjects."""
    intervals = {"95 % bootstrap over crops": bootstrap_eer(scored.scores, scored.labels)}
    if all(crop.subject is not None for crop in scored.crops):
        by_subject = bootstrap_eer(scored.scores, scored.labels, scored.subjects)
        intervals = {"95 % bootstrap over subjects": by_subject, **intervals}
    return [
        Metric(name=name, value=i.value, low=i.low, high=i.high, n=len(scored.crops), interval=kind)
        for kind, i in intervals.items()
    ]


def slices(of: str, scored: ScoredCrops) -> list[Slice]:
    """The errors by thirds of brightness and sharpness and, of MRL's crops, by their attributes and by subject.

    Args:
        of: name of the set of crops.
        scored: the set.
    """
    by_attribute: dict[str, Sequence[object]] = {
        name: thirds(scored.crops, measure) for name, measure in MEASURES.items()
    }
    if all(crop.glasses is not None for crop in scored.crops):
        attributes = {name: [getattr(crop, name) for crop in scored.crops] for name in SLICED}
        by_attribute = attributes | by_attribute | {"subject": scored.subjects}
    return [
        slice_of(of, attribute, ATTRIBUTES.get(attribute, {}).get(value, str(value)), scored.where(chosen))  # type: ignore[call-overload]
        for attribute, values in by_attribute.items()
        for value in sorted(set(values), key=str)
        for chosen in [np.array([v == value for v in values])]
    ]


def slice_of(of: str, attribute: str, value: str, part: ScoredCrops) -> Slice:
    """The errors within a part of the set ``of``."""
    both = 0 < part.labels.sum() < len(part.crops)
    return Slice(
        of=of,
        attribute=attribute,
        value=value,
        crops=len(part.crops),
        open_share=float(part.labels.mean()),
        eer=equal_error_rate(part.scores, part.labels) if both else None,
        wrong=float(((part.scores >= 0.5) != part.labels).mean()),
    )


def brightness(pixels: Pixels) -> float:
    """Mean grey value, 0 to 255."""
    return float(pixels.mean())


def sharpness(pixels: Pixels) -> float:
    """Variance of the Laplacian, which falls with blur (Pech-Pacheco et al. 2000), at the input's 24×24."""
    grey = to_input(pixels, FAR_SIDE).astype(np.float64)
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(laplacian.var())


MEASURES: Final[dict[str, Callable[[Pixels], float]]] = {"brightness": brightness, "sharpness": sharpness}


def thirds(crops: Sequence[Crop], measure: Callable[[Pixels], float]) -> list[str]:
    """Which third of the crops each of them is in by the measure, with the bounds of the thirds."""
    measured = np.array([measure(decode(crop.data)) for crop in crops])
    low, high = np.quantile(measured, [1 / 3, 2 / 3])
    names = (f"lowest third, up to {low:.0f}", f"middle third, up to {high:.0f}", f"top third, over {high:.0f}")
    return [names[int(value > low) + int(value > high)] for value in measured]


def uncertain_band(scored: ScoredCrops, max_wrong: float) -> Band:
    """The narrowest band of scores outside which at most ``max_wrong`` of the crops called open, and of those called
    closed, are not.

    Open and closed eyes count as equally frequent. The band always spans 0.4 to 0.6: so close to a coin toss nobody
    should read a verdict. Where no score is that sure the band reaches to 0 or 1.

    Raises:
        ValueError: one class is missing.
    """
    at = np.unique(scored.scores)
    closed, open_ = (np.sort(scored.scores[scored.labels == label]) for label in (0, 1))
    if not closed.size or not open_.size:
        raise ValueError("thresholds need both open and closed eyes")
    closed_from, open_from = (1 - np.searchsorted(group, at, "left") / group.size for group in (closed, open_))
    closed_to, open_to = (np.searchsorted(group, at, "right") / group.size for group in (closed, open_))
    good_open = at[(at >= 0.6) & (closed_from <= max_wrong * (closed_from + open_from))]
    good_closed = at[(at <= 0.4) & (open_to <= max_wrong * (open_to + closed_to))]
    return Band(closed=float(good_closed.max(initial=0)), open=float(good_open.min(initial=1)))
