"""From measured points to rows, ratios and a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from loadtests.peers.environments import version
from loadtests.peers.servers import BARE, OURS, QUICKSTART, Peer
from tools.harness.report import describe_conditions, table
from tools.harness.servers import Memory
from tools.harness.wrk import Load

OVER_BARE: Final = 0.85
OVER_QUICKSTART: Final = 4.0
P99_OVER_P50: Final = 3.0
BUSY: Final = 16  # connections from which on P99_OVER_P50 applies


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement of one server at one number of connections."""

    peer: str
    round: int
    connections: int
    load: Load
    memory: Memory


@dataclass(frozen=True, slots=True)
class Row:
    """All rounds of one server at one number of connections: medians, sums of errors, peak memory."""

    peer: str
    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    not_2xx: dict[str, int]
    errors: dict[str, int]
    pss_mib: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Target:
    """A target; ``held`` is None if it was not measured."""

    name: str
    wanted: str
    found: str
    held: bool | None


def rows(points: Sequence[Point]) -> list[Row]:
    """One row per server and number of connections, in the order first measured."""
    return [_row(points, *key) for key in dict.fromkeys((point.peer, point.connections) for point in points)]


def _row(points: Sequence[Point], peer: str, connections: int) -> Row:
    of_row = [point for point in points if (point.peer, point.connections) == (peer, connections)]
    loads = [point.load for point in of_row]
    bad = _total({k: v for k, v in load.statuses.items() if not k.startswith("2")} for load in loads)
    return Row(
        peer,
        connections,
        round(median(load.requests_per_second for load in loads), 1),
        round(median(load.p50_ms for load in loads), 2),
        round(median(load.p99_ms for load in loads), 2),
        bad,
        _total({k: v for k, v in load.errors.items() if v} for load in loads),
        round(max(point.memory.pss for point in of_row)),
        round(max(point.memory.rss for point in of_row)),
    )


def _total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def ratios(points: Sequence[Point], peer: str) -> dict[int, float]:
    """Our requests per second over a peer's, by connections: the median over the rounds that have both."""
    speeds = {(point.peer, point.round, point.connections): point.load.requests_per_second for point in points}
    found: dict[int, list[float]] = {}
    for (name, turn, connections), speed in speeds.items():
        if name == OURS and (other := speeds.get((peer, turn, connections))):
            found.setdefault(connections, []).append(speed / other)
    return {connections: round(median(values), 2) for connections, values in found.items()}


def targets(points: Sequence[Point]) -> list[Target]:
    """The targets, and whether they are met."""
    ours = [row for row in rows(points) if row.peer == OURS]
    tails = {row.connections: round(row.p99_ms / row.p50_ms, 2) for row in ours if row.connections >= BUSY}
    not_wanted = _total({k: v for k, v in row.not_2xx.items() if k != "429"} | row.errors for row in ours)
    return [
        _at_least(f"requests/s, ours ÷ {BARE}", OVER_BARE, ratios(points, BARE)),
        _at_least(f"requests/s, ours ÷ {QUICKSTART}", OVER_QUICKSTART, ratios(points, QUICKSTART)),
        Target(
            f"ours, p99 ÷ p50 from {BUSY} connections on",
            f"≤ {P99_OVER_P50:g}",
            _by_connections(tails),
            all(tail <= P99_OVER_P50 for tail in tails.values()) if tails else None,
        ),
        Target(
            "ours, responses other than 2xx and 429, and errors",
            "none",
            _counts(not_wanted) or "none" if ours else "–",
            not not_wanted if ours else None,
        ),
    ]


def _at_least(name: str, wanted: float, found: dict[int, float]) -> Target:
    held = all(ratio >= wanted for ratio in found.values()) if found else None
    return Target(name, f"≥ {wanted:g}", _by_connections(found), held)


def page(about: dict[str, Any], peers: Iterable[Peer], points: Sequence[Point]) -> str:
    """The measurement as Markdown."""
    measured = {point.peer for point in points}
    return "\n".join(
        [
            "# Comparison with other servers\n",
            describe_conditions(about) + "\n",
            "One JPEG crop of 24×24 pixels per request, keep-alive, load generator (wrk, one thread) on the same "
            "machine. Every server was restarted in every round, one after another, each round in a different order. "
            "Figures are medians over the rounds; requests/s counts only 2xx responses, latencies cover all responses; "
            "memory is the peak of all processes of a server (PSS).\n",
            targets_table(targets(points)),
            rows_table(rows(points)),
            "## Settings\n",
            *(
                f"- **{peer.name}** ({peer.package} {version(peer.venv, peer.package)}): {peer.what}"
                for peer in peers
                if peer.name in measured
            ),
            "",
        ]
    )


def targets_table(found: Iterable[Target]) -> str:
    words = {True: "yes", False: "**no**", None: "not measured"}
    return table(
        ["Target", "Limit", "Found", "Met"], [(t.name, t.wanted, t.found or "–", words[t.held]) for t in found]
    )


def rows_table(found: Iterable[Row]) -> str:
    head = ["Server", "Connections", "Requests/s", "p50 ms", "p99 ms", "Not 2xx", "Errors", "Memory MiB"]
    return table(
        head,
        [
            (
                row.peer,
                row.connections,
                f"{row.requests_per_second:,.0f}",
                f"{row.p50_ms:.1f}",
                f"{row.p99_ms:.1f}",
                _counts(row.not_2xx) or None,
                _counts(row.errors) or None,
                f"{row.pss_mib:,.0f}",
            )
            for row in found
        ],
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in counts.items())


def _by_connections(found: dict[int, float]) -> str:
    return ", ".join(f"{value:.2f} at {connections}" for connections, value in sorted(found.items()))
