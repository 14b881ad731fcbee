"""Numbers as the cells of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.evaluation.intervals import Interval
from training.report.content import NONE


def rate(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def interval(found: Interval | None) -> str:
    """The value and its 95 % interval."""
    return NONE if found is None else f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"


def percent(found: Interval | None) -> str:
    """As ``interval``, in percent."""
    return NONE if found is None else f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})"


def count(value: int) -> str:
    return f"{value:,}"


def share(part: int, whole: int) -> str:
    """A count with its share of the whole."""
    return f"{part:,} ({part / whole:.1%})" if whole else f"{part:,}"


def to_interval(kept: Mapping[str, Any] | None) -> Interval | None:
    """An interval from its JSON form."""
    return None if kept is None else Interval(**kept)
