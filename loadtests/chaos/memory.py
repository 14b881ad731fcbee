"""Memory of the service over a run: samples, and how it grew after the warm-up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from tools.harness.servers import Server


class Sample(NamedTuple):
    """Anonymous memory of the process tree in MiB, and when it was measured, in seconds since the load began."""

    seconds: float
    mib: float


@dataclass(frozen=True, slots=True)
class Growth:
    """Memory after the warm-up: slope by least squares, change from start to end, level at the start, and peak."""

    slope_mib_per_minute: float
    total_mib: float
    start_mib: float
    most_mib: float


@asynccontextmanager
async def memory_sampled(server: Server, every: float) -> AsyncIterator[list[Sample]]:
    """The memory of a server, sampled every ``every`` seconds while the block runs."""
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


def memory_growth(samples: Sequence[Sample], warm_up: float) -> Growth:
    """Memory growth from ``warm_up`` seconds on.

    Start and end are each the mean over a tenth of the samples, so that a single one does not decide.
    """
    after = [sample for sample in samples if sample.seconds >= warm_up] or list(samples[-1:])
    times = np.array([sample.seconds for sample in after])
    used = np.array([sample.mib for sample in after])
    tenth = max(1, len(used) // 10)
    slope = float(np.polyfit(times, used, 1)[0]) * 60 if len(used) > 1 else 0.0
    start, end = float(used[:tenth].mean()), float(used[-tenth:].mean())
    return Growth(round(slope, 3), round(end - start, 2), round(start, 1), round(float(used.max()), 1))


def memory_figures(samples: Sequence[Sample], growth: Growth) -> dict[str, Any]:
    """Memory for the JSON report: the summary and the samples."""
    return {"memory": asdict(growth), "memory_samples": [list(sample) for sample in samples]}
