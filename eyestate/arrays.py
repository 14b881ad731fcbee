"""The arrays that travel between modules, without the libraries that make them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # (height, width) grey, (height, width, 3) RGB, or a stack of either
Scores = npt.NDArray[np.float32]  # (N,) P(open), 0 to 1
