"""What a run claims, whether it holds, and the books behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from tools.harness.claims import Claim, verdicts
from tools.harness.load import Generator, losses, statuses
from tools.harness.report import write
from tools.harness.servers import Server


class Sample(NamedTuple):
    """Anonymous memory of the process tree in MiB at a time, in seconds since the load began."""

    seconds: float
    mib: float


@dataclass(frozen=True, slots=True)
class Growth:
    """How memory went after the warm-up: MiB per minute by least squares, and MiB from its start to its end."""

    slope_mib_per_minute: float
    total_mib: float
    start_mib: float
    most_mib: float


def books(generator: Generator) -> dict[str, Any]:
    """Requests sent, answered by status and lost; what was never sent apart."""
    return {
        "sent": generator.sent,
        "answered": statuses(generator.outcomes),
        "lost": losses(generator.outcomes),
        "connections_refused": generator.refused,
        "held_back_by_the_generator": generator.held_back,
    }


def balanced(generator: Generator) -> Claim:
    """That every request sent has its outcome."""
    known = len(generator.outcomes)
    return Claim("every request is accounted for", f"{generator.sent:,} sent, {known:,} known", generator.sent == known)


def nothing_lost(generator: Generator) -> Claim:
    """That every request sent was answered."""
    lost = losses(generator.outcomes)
    return Claim("no request is lost", counts(lost), not lost)


def only(generator: Generator, *wanted: int) -> Claim:
    """That no answer has another status."""
    found = statuses(generator.outcomes)
    return Claim(
        f"answers are {' or '.join(map(str, wanted))}", counts(found), {int(status) for status in found} <= {*wanted}
    )


def counts(found: dict[str, int]) -> str:
    """``status: count`` and the like, in a line."""
    return ", ".join(f"{name}: {count:,}" for name, count in found.items()) or "none"


def growth(samples: Sequence[Sample], warm_up: float) -> Growth:
    """How memory went, from so many seconds after the beginning.

    The start and the end are means over a tenth of the time each, so that one sample does not decide.
    """
    after = [sample for sample in samples if sample.seconds >= warm_up] or list(samples[-1:])
    times = np.array([sample.seconds for sample in after])
    used = np.array([sample.mib for sample in after])
    tenth = max(1, len(used) // 10)
    slope = float(np.polyfit(times, used, 1)[0]) * 60 if len(used) > 1 else 0.0
    start, end = float(used[:tenth].mean()), float(used[-tenth:].mean())
    return Growth(round(slope, 3), round(end - start, 2), round(start, 1), round(float(used.max()), 1))


@asynccontextmanager
async def sampled(server: Server, every: float) -> AsyncIterator[list[Sample]]:
    """The memory of a server, sampled while the block runs."""
    samples: list[Sample] = []
    started = time.perf_counter()

    async def watch() -> None:
        while True:
            used = await asyncio.to_thread(server.memory)
            samples.append(Sample(round(time.perf_counter() - started, 2), round(used.anonymous, 2)))
            await asyncio.sleep(every)

    watcher = asyncio.create_task(watch())
    try:
        yield samples
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


def finish(output: Path, name: str, about: dict[str, Any], figures: dict[str, Any], claims: Sequence[Claim]) -> None:
    """Write ``chaos-NAME.json``, print the claims, and exit with 1 unless all of them hold."""
    held = all(claim.held for claim in claims)
    result = {"run": name, "held": held, "claims": [claim._asdict() for claim in claims]} | figures | {"about": about}
    write(output, f"chaos-{name}", result)
    click.echo(verdicts(claims))
    if not held:
        raise SystemExit(1)


def growth_figures(samples: Sequence[Sample], found: Growth) -> dict[str, Any]:
    """Memory for the JSON file: the summary, and the samples."""
    return {"memory": asdict(found), "memory_samples": [list(sample) for sample in samples]}
