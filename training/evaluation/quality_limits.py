"""Where scores become unreliable: the bundle's errors on crops made ever darker, brighter, more blurred and smaller.

``eyestate.quality`` takes its limits from this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from eyestate.arrays import Pixels
from eyestate.images import decode, to_input
from eyestate.quality import SIDE, measure
from eyestate.scorer import Scorer
from training.data.datasets import LabelledCrop, labels_of
from training.evaluation.eer import Labels, Scores, equal_error_rate

SCORED: Final = 16  # one validation crop in so many


@dataclass(frozen=True, slots=True)
class Row:
    """The errors on crops of which a figure is from ``low`` to below ``high``; the EER is None without both states.

    Undisturbed crops have no bounds.
    """

    figure: str
    low: float | None
    high: float | None
    crops: int
    eer: float | None
    uncertain: float


@dataclass(frozen=True, slots=True)
class _Study:
    disturb: Callable[[Pixels, float], Pixels]
    levels: Sequence[float]
    figure: Callable[[Sequence[Pixels]], Scores]
    edges: Sequence[float]


def _far(crop: Pixels) -> Pixels:
    return to_input(crop, SIDE)


def _dimmed(crop: Pixels, factor: float) -> Pixels:
    dimmed = np.rint(_far(crop).astype(float) * factor)
    return np.minimum(dimmed, 255).astype(np.uint8)


def _blurred(crop: Pixels, sigma: float) -> Pixels:
    return np.array(Image.fromarray(_far(crop)).filter(ImageFilter.GaussianBlur(sigma)), np.uint8)


def _resized(crop: Pixels, side: float) -> Pixels:
    return to_input(crop, int(side))


def _brightness(crops: Sequence[Pixels]) -> Scores:
    return measure(crops).brightness.astype(float)


def _sharpness(crops: Sequence[Pixels]) -> Scores:
    return measure(crops).sharpness.astype(float)


def _side(crops: Sequence[Pixels]) -> Scores:
    return np.array([min(crop.shape) for crop in crops], float)


_STUDIES: Final = {
    "brightness, darkened": _Study(
        _dimmed, (1, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08), _brightness, (0, 8, 14, 20, 26, 40, 60, 100)
    ),
    "brightness, overexposed": _Study(
        _dimmed, (1, 1.5, 2, 2.5, 2.75, 3, 3.5, 4), _brightness, (100, 150, 200, 220, 230, 240, 248, 256)
    ),
    "sharpness, blurred": _Study(
        _blurred, (0, 0.5, 0.75, 1, 1.5, 2), _sharpness, (0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2)
    ),
    "pixels a side, shrunk": _Study(_resized, (24, 20, 16, 14, 12, 10, 8), _side, (8, 10, 12, 14, 16, 20, 24, 25)),
}


def quality_limits(scorer: Scorer, crops: Sequence[LabelledCrop]) -> list[Row]:
    """Disturb labelled crops, seen at ``SIDE`` px, step by step, and evaluate the scores by the measured quality.

    Args:
        scorer: of the bundle.
        crops: labelled, of subjects that the bundle was not trained on.

    Returns:
        First the errors on all crops undisturbed, then those by disturbance and figure, rising.
    """
    pixels = [decode(crop.data) for crop in crops]
    labels = labels_of(crops)
    undisturbed = scorer.score([_far(crop) for crop in pixels]).astype(float)
    rows = [_row(scorer, "undisturbed", (None, None), undisturbed, labels)]
    for name, study in _STUDIES.items():
        disturbed = [[study.disturb(crop, level) for crop in pixels] for level in study.levels]
        scores = np.concatenate([scorer.score(some) for some in disturbed]).astype(float)
        figures = np.concatenate([study.figure(some) for some in disturbed])
        repeated = np.tile(labels, len(study.levels))
        for bounds in zip(study.edges[:-1], study.edges[1:], strict=True):
            inside = (figures >= bounds[0]) & (figures < bounds[1])
            if inside.any():
                rows.append(_row(scorer, name, bounds, scores[inside], repeated[inside]))
    return rows


def _row(scorer: Scorer, figure: str, bounds: tuple[float | None, float | None], scores: Scores, labels: Labels) -> Row:
    both = 0 < labels.sum() < len(labels)
    eer = equal_error_rate(scores, labels) if both else None
    uncertain = np.mean([scorer.state(score) == "uncertain" for score in scores])
    return Row(figure, *bounds, len(scores), eer, float(uncertain))
