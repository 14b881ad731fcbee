"""Claims about what became of the requests of a load generator."""

from __future__ import annotations

from typing import Any

from tools.harness.claims import Claim
from tools.harness.load import LoadGenerator, losses, statuses


def request_counts(generator: LoadGenerator) -> dict[str, Any]:
    """Requests sent, responses by status, losses, and separately the connections and requests that never left."""
    return {
        "sent": generator.sent,
        "answered": statuses(generator.outcomes),
        "lost": losses(generator.outcomes),
        "connections_refused": generator.refused,
        "held_back_by_the_generator": generator.held_back,
    }


def all_accounted_for(generator: LoadGenerator) -> Claim:
    """Claim that every request sent has an outcome."""
    known = len(generator.outcomes)
    return Claim("every request is accounted for", f"{generator.sent:,} sent, {known:,} known", generator.sent == known)


def none_lost(generator: LoadGenerator) -> Claim:
    """Claim that every request sent was answered."""
    lost = losses(generator.outcomes)
    return Claim("no request is lost", format_counts(lost), not lost)


def only_statuses(generator: LoadGenerator, *allowed: int) -> Claim:
    """Claim that every response has one of these statuses."""
    found = statuses(generator.outcomes)
    held = {int(status) for status in found} <= {*allowed}
    return Claim(f"responses are {' or '.join(map(str, allowed))}", format_counts(found), held)


def format_counts(counts: dict[str, int]) -> str:
    """``name: count`` pairs on one line."""
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items()) or "none"
