"""What a run has to show, and whether it did."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Claim(NamedTuple):
    """Something a run has to show."""

    what: str
    found: str
    held: bool


def verdicts(claims: Iterable[Claim]) -> str:
    """A line for each claim: whether it held, what it is, what was found."""
    return "\n".join(f"{'held' if claim.held else 'NOT HELD':<9} {claim.what}: {claim.found}" for claim in claims)
