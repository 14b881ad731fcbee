"""Probabilities as logits."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

MAX_LOGIT: Final = 16.0  # beyond it a probability is 1 in float32

Floats = npt.NDArray[np.float32]


def log_odds(scores: npt.NDArray[np.floating]) -> Floats:
    """Logits of probabilities (N,), float32, within ±``MAX_LOGIT``."""
    p = scores.astype(np.float64)
    with np.errstate(divide="ignore"):
        logits: Floats = np.clip(np.log(p) - np.log1p(-p), -MAX_LOGIT, MAX_LOGIT).astype(np.float32)
    return logits
