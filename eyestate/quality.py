"""How well an eye can be seen in a crop: brightness, contrast, sharpness and size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from eyestate.images import Pixels, to_input

SIDE: Final = 24  # pixels: crops are measured at one size, so that the figures of small and large ones compare

Figures = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Measures:
    """Figures of N crops, each float32 (N,).

    Attributes:
        brightness: mean grey value, 0 to 255.
        contrast: standard deviation of the grey values, 0 to 127.5.
        sharpness: variance of the Laplacian, which falls with blur (Pech-Pacheco et al. 2000), 0 upward.
    """

    brightness: Figures
    contrast: Figures
    sharpness: Figures


def shrink(crop: Pixels) -> Pixels:
    """A copy of a grey crop, uint8 (height, width), at ``SIDE``×``SIDE`` pixels."""
    return np.array(to_input(crop, SIDE))


def measure(crops: Sequence[Pixels]) -> Measures:
    """Measure crops that ``shrink`` returned."""
    grey = np.array(crops, np.float32).reshape(-1, SIDE, SIDE)
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    laplacian -= 4 * grey[:, 1:-1, 1:-1]
    return Measures(grey.mean((1, 2)), grey.std((1, 2)), laplacian.var((1, 2)))
