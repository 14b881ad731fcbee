"""How well an eye can be seen in a crop, so that a caller can abstain from a score.

The limits are where scores become unreliable: MRL's validation subjects were darkened, overexposed, blurred and shrunk
step by step, and beyond each limit the model's equal error rate or its share of uncertain verdicts is more than twice
that of the same crops undisturbed (docs/metrics.md has the figures; ``python -m training quality-limits`` measures
them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from eyestate.arrays import Pixels
from eyestate.images import to_input, to_inputs

SIDE: Final = 24  # pixels: crops are measured at one size, so that the figures of small and large ones compare
TOO_DARK: Final = 20  # mean grey value
TOO_BRIGHT: Final = 240  # mean grey value
TOO_BLURRED: Final = 0.06  # sharpness
TOO_SMALL: Final = 14  # pixels a side

_ROUNDING: Final = 20 / 12  # variance of the Laplacian of nothing but rounding: 1/12, weighted by 4² + 4 · 1²

Figures = npt.NDArray[np.float32]
Flag = Literal["too_dark", "too_bright", "too_blurred", "too_small"]
Person = Literal["open", "closed", "cannot_tell"]  # what is said of a face
Reason = Literal["turned", "eye_outside", "eye_covered", "eye_shaded", "eye_uncertain", "eyes_differ"] | Flag


@dataclass(frozen=True, slots=True)
class Measures:
    """Figures of N crops, each float32 (N,).

    Attributes:
        brightness: mean grey value, 0 to 255.
        contrast: standard deviation of the grey values, 0 to 127.5.
        sharpness: variance of the Laplacian, less what rounding to whole grey values adds, over the variance of the
            grey values, 0 upward. The former falls with blur (Pech-Pacheco et al. 2000), but with contrast too; their
            ratio is the same in any light.
    """

    brightness: Figures
    contrast: Figures
    sharpness: Figures


@dataclass(frozen=True, slots=True)
class Assessment:
    """How well the eye can be seen in one crop.

    Attributes:
        width, height: of the crop as it was sent, in pixels.
        brightness, contrast, sharpness: as in ``Measures``, rounded.
        flags: the limits that it exceeds.
    """

    width: int
    height: int
    brightness: float
    contrast: float
    sharpness: float
    flags: list[Flag]


def shrink(crop: Pixels) -> Pixels:
    """A copy of a grey crop, uint8 (height, width), at ``SIDE``×``SIDE`` pixels."""
    return np.array(to_input(crop, SIDE))


def measure(crops: Sequence[Pixels] | Pixels) -> Measures:
    """Measure crops of one size, uint8 (height, width): figures compare only between crops of ``SIDE``×``SIDE``."""
    grey = np.array(crops, np.float32).reshape(-1, *(crops[0].shape if len(crops) else (SIDE, SIDE)))
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    laplacian -= 4 * grey[:, 1:-1, 1:-1]
    contrast = grey.std((1, 2))
    edges = np.maximum(laplacian.var((1, 2)) - _ROUNDING, 0)
    return Measures(grey.mean((1, 2)), contrast, edges / np.maximum(contrast, 1) ** 2)  # a flat crop is not sharp


def assess(crops: Sequence[Pixels] | Pixels) -> list[Assessment]:
    """Assess each crop.

    Args:
        crops: grey, uint8 (height, width) each or (N, height, width) in all, as they were sent.
    """
    small = to_inputs(crops, SIDE) if isinstance(crops, np.ndarray) else [to_input(crop, SIDE) for crop in crops]
    measures = measure(small)
    figures = zip(*(f.tolist() for f in (measures.brightness, measures.contrast, measures.sharpness)), strict=True)
    return [
        Assessment(
            width=crop.shape[1],
            height=crop.shape[0],
            brightness=round(brightness, 1),
            contrast=round(contrast, 1),
            sharpness=round(sharpness, 3),
            flags=_flags(min(crop.shape), brightness, sharpness),
        )
        for crop, (brightness, contrast, sharpness) in zip(crops, figures, strict=True)
    ]


def _flags(side: int, brightness: float, sharpness: float) -> list[Flag]:
    raised: dict[Flag, bool] = {
        "too_dark": brightness < TOO_DARK,
        "too_bright": brightness > TOO_BRIGHT,
        "too_blurred": sharpness < TOO_BLURRED,
        "too_small": side < TOO_SMALL,
    }
    return [flag for flag, is_raised in raised.items() if is_raised]
