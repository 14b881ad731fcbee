"""One service under rising load: throughput, latency, CPU time and memory at each rate.

Requests are sent when they are due, whether or not earlier ones have been answered, and latency counts from that time,
so it includes the delay when the service falls behind. A closed loop would hide that delay (coordinated omission).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from os import sched_getaffinity, sched_setaffinity
from typing import Final, Literal

import numpy as np
import psutil

from eyestate.bundle import Bundle, CascadeBundle
from eyestate.media_types import NPY
from eyestate.settings import Device
from loadtests.bulk import pack
from tools.harness import crops
from tools.harness.load import Connection, LoadGenerator, Outcome, http_request, poisson, run, stop_after
from tools.harness.servers import Probe, Server, ServerError
from tools.harness.service import running_service

RequestKind = Literal["single", "packed"]

WARM_UP_SECONDS: Final = 1.0
FEWEST_REQUESTS: Final = 20  # at each rate, within LONGEST_STEP
LONGEST_STEP: Final = 3.0  # multiple of the requested seconds
CONNECTIONS: Final[dict[RequestKind, int]] = {
    "single": 64,
    "packed": 2,
}  # that saturate the service
SAMPLE_SECONDS: Final = 0.1
KEPT_UP: Final = 0.95  # duration of the load over the time until its last response: no backlog from this ratio on
LAG_MS: Final = 20.0  # a generator that starts requests later than this is itself saturated


@dataclass(frozen=True, slots=True)
class Traffic:
    """A request that is sent repeatedly: its kind, the crops in it, its bytes."""

    kind: RequestKind
    crops: int
    request: bytes

    def arrivals(self, rate: float, seed: int) -> Iterator[float]:
        """When requests are due: single crops as from independent callers, packed ones at even intervals."""
        if self.kind == "single":
            return poisson(rate, seed)
        return (number / rate for number in itertools.count())


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the service runs: number of cores, whether it shares them with the generator, and number of workers."""

    cores: int
    shared: bool
    workers: int

    @property
    def name(self) -> str:
        """For tables."""
        place = "1 separate core" if not self.shared else f"{self.cores} cores, shared with the generator"
        return f"{place}, {self.workers} worker{'s' if self.workers > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Point:
    """The measurement at one rate.

    Attributes:
        offered: requests per second.
        seconds: for how long requests were sent.
        elapsed: seconds until the last response.
        p50_ms, p95_ms, p99_ms: latency of requests answered with 200, None if there were none.
        busy_cores: CPU time of the service's processes per second.
        waiting: crops in its queue, 95th percentile of samples.
        lag_ms: by how much the generator was late, 99th percentile.
    """

    offered: float
    seconds: float
    elapsed: float
    sent: int
    answered: int
    refused: int
    failed: int
    crops_per_second: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    cpu_seconds_per_1000_crops: float | None
    busy_cores: float
    waiting: float
    lag_ms: float

    def holds(self, limit_ms: float) -> bool:
        """Whether every request was answered, 99 % within the limit, and no backlog built up."""
        if self.p99_ms is None or self.answered < self.sent:
            return False
        return self.p99_ms <= limit_ms and self.elapsed * KEPT_UP <= self.seconds


@dataclass(frozen=True, slots=True)
class Curve:
    """One service under one kind of request at rising rates.

    Attributes:
        queue: EYESTATE_QUEUE if it is not the default.
        answer_bytes: size of a response with its headers.
        memory_mib: peak (PSS).
    """

    model: str
    device: str
    kind: RequestKind
    crops: int
    placement: Placement
    queue: int | None
    request_bytes: int
    answer_bytes: int
    ready_seconds: float
    memory_mib: float
    points: list[Point] = field(default_factory=list)

    def knee(self, limit_ms: float) -> Point | None:
        """The highest rate that holds."""
        held = [point for point in self.points if point.holds(limit_ms)]
        return max(held, key=lambda point: point.offered, default=None)

    @property
    def title(self) -> str:
        """The model, and the precision that it is computed in."""
        return f"{self.model} in {self.device.rpartition('-')[2]}"

    @property
    def best_point(self) -> Point:
        """The rate with the highest throughput."""
        return max(self.points, key=lambda point: point.crops_per_second)


def single() -> Traffic:
    """One JPEG of an eye, 24×24 pixels."""
    return Traffic("single", 1, http_request("/v1/score", crops.jpeg(crops.eye())))


def batch(size: int) -> Traffic:
    """That many crops of 24×24 pixels as npy, answered as npy."""
    body, _ = pack(NPY, size, crops.SIDE)
    return Traffic("packed", size, http_request("/v1/score/batch", body, NPY, NPY))


@dataclass(frozen=True, slots=True)
class Plan:
    """The rates of a curve.

    Attributes:
        traffic: what is sent.
        shares: rates as shares of ``max_rate``.
        seconds: at each rate.
        max_rate: requests per second at saturation, measured if None.
    """

    traffic: Traffic
    shares: Sequence[float]
    seconds: float
    max_rate: float | None = None


def measure_curves(
    bundle: Bundle | CascadeBundle,
    placement: Placement,
    plans: Sequence[Plan],
    queue: int | None = None,
    device: Device = "auto",
) -> Iterator[Curve]:
    """Start a service on a device and yield a curve for each plan.

    With a separate core the service runs on the last one, and this process on the others.

    Raises:
        ServerError: the service did not start, or does not answer with 200.
    """
    everywhere = sched_getaffinity(0)
    separate = {max(everywhere)}
    settings = {"EYESTATE_QUEUE": str(queue)} if queue else {}
    with ExitStack() as stack:
        started = time.perf_counter()
        with pinned_to(everywhere if placement.shared else separate):
            name = f"capacity-{bundle.manifest.name}"
            server = stack.enter_context(running_service(bundle, device, placement.workers, name, **settings))
        ready = time.perf_counter() - started
        stack.enter_context(pinned_to(everywhere if placement.shared else everywhere - separate))
        found = json.loads(server.fetch(Probe("/readyz")))["device"]
        for plan in plans:
            traffic = plan.traffic
            answer_bytes = run(response_size(server, traffic))
            max_rate = plan.max_rate or highest_rate(server, traffic, plan.seconds)
            points, memory = [], 0.0
            for number, share in enumerate(plan.shares):
                points.append(run(step(server, traffic, share * max_rate, plan.seconds, seed=number)))
                memory = max(memory, server.memory().pss)
            yield Curve(
                model=bundle.manifest.name,
                device=found,
                kind=traffic.kind,
                crops=traffic.crops,
                placement=placement,
                queue=queue,
                request_bytes=len(traffic.request),
                answer_bytes=answer_bytes,
                ready_seconds=round(ready, 1),
                memory_mib=round(memory),
                points=points,
            )


@contextmanager
def pinned_to(cores: set[int]) -> Iterator[None]:
    """Pin this thread, and the processes it starts within the block, to these cores."""
    before = sched_getaffinity(0)
    sched_setaffinity(0, cores)
    try:
        yield
    finally:
        sched_setaffinity(0, before)


async def response_size(server: Server, traffic: Traffic) -> int:
    """Bytes of a response with its headers.

    Raises:
        ServerError: its status is not 200.
    """
    connection = await Connection.open(server.port)
    answer = await connection.request(traffic.request)
    connection.close()
    if answer.status != 200:
        raise ServerError(f"the service answers {answer.status}: {answer.body[:200]!r}")
    head = sum(len(f"{name}: {value}\r\n") for name, value in answer.headers.items())
    return len("HTTP/1.1 200 OK\r\n\r\n") + head + len(answer.body)


def highest_rate(server: Server, traffic: Traffic, seconds: float) -> float:
    """Requests per second answered in a closed loop that saturates the service."""

    async def busy(duration: float) -> Sequence[Outcome]:
        generator = LoadGenerator(server.port, [traffic.request])
        stop = asyncio.Event()
        load = generator.closed_loop(CONNECTIONS[traffic.kind], stop)
        await asyncio.gather(load, stop_after(duration, stop))
        generator.close()
        return generator.outcomes

    run(busy(WARM_UP_SECONDS))
    outcomes = run(busy(seconds / 2))
    return len(outcomes) / elapsed_seconds(outcomes)


async def step(server: Server, traffic: Traffic, rate: float, seconds: float, seed: int) -> Point:
    """Send ``rate`` requests per second for that long, longer if they are few, and wait for all responses."""
    duration = max(seconds, min(LONGEST_STEP * seconds, FEWEST_REQUESTS / rate))
    generator = LoadGenerator(server.port, [traffic.request])
    stop = asyncio.Event()
    before = cpu_seconds(server)
    async with queue_watched(server) as waiting:
        await asyncio.gather(generator.send_at(traffic.arrivals(rate, seed), stop), stop_after(duration, stop))
    cpu = cpu_seconds(server) - before
    generator.close()

    outcomes = generator.outcomes
    sent = generator.sent + generator.refused + generator.held_back
    good = [outcome for outcome in outcomes if outcome.status == 200]
    refused = sum(outcome.status == 429 for outcome in outcomes)
    elapsed = max(duration, elapsed_seconds(outcomes))
    times = [(outcome.late + outcome.seconds) * 1e3 for outcome in good]
    p50, p95, p99 = np.percentile(times, [50, 95, 99]).round(2).tolist() if times else (None, None, None)
    scored = len(good) * traffic.crops
    return Point(
        offered=round(rate, 2),
        seconds=round(duration, 2),
        elapsed=round(elapsed, 2),
        sent=sent,
        answered=len(good),
        refused=refused,
        failed=sent - len(good) - refused,
        crops_per_second=round(scored / elapsed, 1),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        cpu_seconds_per_1000_crops=round(cpu / scored * 1e3, 3) if scored else None,
        busy_cores=round(cpu / elapsed, 3),
        waiting=float(np.percentile(waiting, 95).round(1)) if waiting else 0.0,
        lag_ms=round(float(np.percentile(generator.lags, 99)) * 1e3, 2) if generator.lags else 0.0,
    )


def elapsed_seconds(outcomes: Sequence[Outcome]) -> float:
    """Seconds from when the first request was due to the last response."""
    begun = min(outcome.sent - outcome.late for outcome in outcomes)
    return max(outcome.sent + outcome.seconds for outcome in outcomes) - begun


def cpu_seconds(server: Server) -> float:
    """CPU time of all processes of the service, user and system."""
    total = 0.0
    for process in server.processes():
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return total


@asynccontextmanager
async def queue_watched(server: Server) -> AsyncIterator[list[int]]:
    """Number of queued crops, polled from ``/readyz`` while the block runs."""
    samples: list[int] = []

    async def watch() -> None:
        connection = await Connection.open(server.port)
        try:
            while connection.usable:
                samples.append(json.loads((await connection.request(http_request("/readyz"))).body)["waiting"])
                await asyncio.sleep(SAMPLE_SECONDS)
        finally:
            connection.close()

    watcher = asyncio.create_task(watch())
    try:
        yield samples
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
