"""Claims about a scenario run, from counts of requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from loadtests.scenarios.plan import Limits
from tools.harness.claims import Claim

REFUSED = " rejected"  # suffix of the separate entry for rejections of a kind of request


class Row(NamedTuple):
    """Outcome of one kind of request: how many were sent, failed and refused, and the p95 of the others."""

    kind: str
    sent: int
    failed: int
    refused: int
    p95_ms: float | None


def claims(rows: Sequence[Row], limits: Limits, exceptions: int) -> list[Claim]:
    """The claims that a run has to meet.

    Args:
        rows: one per kind of request sent.
        limits: for the run.
        exceptions: number of kinds of exceptions in users; a run with any is invalid.
    """
    found = []
    for row in rows:
        answered = row.sent - row.failed - row.refused
        found.append(Claim(f"{row.kind} requests are answered", f"{answered:,} of {row.sent:,}", answered > 0))
        if row.p95_ms is not None:
            wanted = f"p95 of {row.kind} requests at most {limits.p95_ms:g} ms"
            found.append(Claim(wanted, f"{row.p95_ms:g} ms", row.p95_ms <= limits.p95_ms))
    sent, failed, refused = (sum(counts) for counts in zip(*((r.sent, r.failed, r.refused) for r in rows), strict=True))
    found.append(_at_most("failed", failed, sent, limits.errors))
    found.append(_at_most("rejected", refused, sent, limits.refused))
    if limits.refused_from:
        wanted = f"at least {limits.refused_from:.2%} rejected, or it was no overload"
        found.append(Claim(wanted, f"{refused:,} of {sent:,}", refused > 0 and refused >= limits.refused_from * sent))
    if exceptions:
        found.append(Claim("no user raises an exception", f"{exceptions} kinds", False))
    return found


def _at_most(what: str, count: int, sent: int, limit: float) -> Claim:
    return Claim(f"at most {limit:.2%} {what}", f"{count:,} of {sent:,}", count <= limit * sent)
