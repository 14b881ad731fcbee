"""Claims: what a run has to show, and whether it did."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Claim(NamedTuple):
    """A property that a run has to show, what was found, and whether it holds."""

    what: str
    found: str
    held: bool


def format_claims(claims: Iterable[Claim]) -> str:
    """One line per claim: whether it holds, what it is, what was found."""
    return "\n".join(f"{'held' if claim.held else 'NOT HELD':<9} {claim.what}: {claim.found}" for claim in claims)
