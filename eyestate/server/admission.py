"""Admission control: what waiting is expected to cost, and the error for whom it would cost too much."""

from __future__ import annotations

import math
from typing import Final

from eyestate.errors import OverloadedError

_SMOOTHING: Final = 0.1  # weight of the newest value in the moving average


def smoothed(average: float, newest: float) -> float:
    """The exponential moving average after another value."""
    return average + _SMOOTHING * (newest - average)


def overloaded(waiting: str, seconds: float) -> OverloadedError:
    """The error for a request that is turned away.

    Args:
        waiting: what waits already, such as "12 crops".
        seconds: until there should be room.
    """
    retry_after = math.ceil(seconds)
    return OverloadedError(f"{waiting} are waiting already; try again in {retry_after} s", retry_after)
