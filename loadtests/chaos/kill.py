"""kill -9 of a random worker, repeatedly, under load: its in-flight requests are lost, all others are answered."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

import psutil

from tools.harness import crops
from tools.harness.claims import Claim
from tools.harness.load import (
    Connection,
    LoadGenerator,
    RequestLostError,
    http_request,
    losses,
    percentiles_ms,
    stop_after,
)
from tools.harness.outcomes import all_accounted_for, format_counts, only_statuses, request_counts
from tools.harness.servers import Server, ServerError

CONNECTIONS: Final = 16
REQUESTS_PER_CONNECTION: Final = 50  # otherwise all would stay with the surviving worker
BACK_SECONDS: Final = 30
_WORKER: Final = "_bentoml_impl.worker.service"  # on the command line of BentoML's workers, of which the end may be cut
_POLL_SECONDS: Final = 0.05
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Kill:
    """The end of one worker.

    Attributes:
        at_seconds: since the start of the run.
        in_flight: connections that it held, each with one request.
        back_seconds: until its replacement answered.
    """

    at_seconds: float
    in_flight: int
    back_seconds: float


async def kill(server: Server, *, workers: int, seconds: float, every: float) -> tuple[dict[str, Any], list[Claim]]:
    """Kill a random worker every few seconds, each time after the last one has been replaced.

    Args:
        server: the service.
        workers: number of its workers.
        seconds: of load.
        every: minimum number of seconds between kills.

    Returns:
        The figures for the report, and the claims.
    """
    request = http_request("/v1/score", crops.jpeg(crops.eye()))
    generator = LoadGenerator(server.port, [request], REQUESTS_PER_CONNECTION)
    stop = asyncio.Event()
    load = asyncio.create_task(generator.closed_loop(CONNECTIONS, stop))
    rng = random.Random(_SEED)  # noqa: S311
    started = time.perf_counter()
    kills: list[Kill] = []
    killed_ports: set[int] = set()
    await asyncio.sleep(every)
    while time.perf_counter() - started < seconds:
        victim = rng.choice(await asyncio.to_thread(worker_processes, server, workers))
        before = {worker.pid for worker in worker_processes(server, workers)}
        ports = await asyncio.to_thread(kill_worker, victim, server.port)
        at = time.perf_counter()
        killed_ports |= ports
        back = await wait_for_replacement(server, before)
        kills.append(Kill(round(at - started, 2), len(ports), round(back - at, 2)))
        await asyncio.sleep(every)
    await asyncio.gather(load, stop_after(0, stop))
    generator.close()

    lost = [outcome for outcome in generator.outcomes if outcome.status is None]
    elsewhere = [outcome for outcome in lost if outcome.local_port not in killed_ports]
    answers = sorted(outcome.sent + outcome.seconds for outcome in generator.outcomes if outcome.status == 200)
    longest_gap = max((later - earlier for earlier, later in itertools.pairwise(answers)), default=seconds)
    in_flight = sum(each.in_flight for each in kills)
    slowest = max((each.back_seconds for each in kills), default=0.0)
    figures = request_counts(generator) | {
        "kills": [asdict(each) for each in kills],
        "in_flight_on_killed_workers": in_flight,
        "lost_elsewhere": len(elsewhere),
        "longest_silence_seconds": round(longest_gap, 3),
        "answered_ms": percentiles_ms(generator.outcomes, lambda outcome: outcome.status == 200),
    }
    claims = [
        all_accounted_for(generator),
        Claim("workers were killed", str(len(kills)), bool(kills)),
        Claim(
            "only requests in flight on killed workers are lost",
            f"{len(lost):,} lost ({format_counts(losses(generator.outcomes))}), {in_flight} in flight on killed "
            f"workers, {len(elsewhere)} elsewhere",
            not elsewhere and len(lost) <= in_flight,
        ),
        only_statuses(generator, 200),
        Claim("no connection is refused", f"{generator.refused}", generator.refused == 0),
        Claim("every killed worker is replaced", f"within {slowest:.1f} s", slowest < BACK_SECONDS),
        Claim(
            "the other workers keep serving: no second without a response",
            f"longest {longest_gap:.2f} s",
            longest_gap < 1,
        ),
    ]
    return figures, claims


def worker_processes(server: Server, wanted: int) -> list[psutil.Process]:
    """The worker processes.

    Raises:
        ServerError: their number is not ``wanted``.
    """
    found = []
    for process in server.processes():
        try:
            if _WORKER in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    if len(found) != wanted:
        raise ServerError(f"the service has {len(found)} workers, not {wanted}")
    return found


def kill_worker(worker: psutil.Process, port: int) -> set[int]:
    """Kill a worker and return the client ports of the connections that it held.

    It is stopped before they are counted, so that none opens or closes in between.
    """
    worker.send_signal(signal.SIGSTOP)
    held = worker.net_connections("tcp")
    worker.send_signal(signal.SIGKILL)
    return {each.raddr.port for each in held if each.raddr and each.laddr.port == port}


async def wait_for_replacement(server: Server, before: set[int]) -> float:
    """The ``time.perf_counter()`` at which a new worker answers.

    Args:
        server: the service.
        before: process ids of the workers before the kill.

    Raises:
        ServerError: none does within ``BACK_SECONDS``.
    """
    deadline = time.perf_counter() + BACK_SECONDS
    while time.perf_counter() < deadline:
        try:
            connection = await Connection.open(server.port)
            await connection.request(http_request("/livez"))
            asked = time.perf_counter()
            pid = await asyncio.to_thread(connection_owner, server, connection.local_port)
            connection.close()
        except (OSError, RequestLostError):
            pid = None
        if pid is not None and pid not in before:
            return asked
        await asyncio.sleep(_POLL_SECONDS)
    raise ServerError(f"no worker came back within {BACK_SECONDS} s")


def connection_owner(server: Server, remote_port: int) -> int | None:
    """Process id of the server process that holds the connection from a client port; None if there is none."""
    for process in server.processes():
        try:
            if any(each.raddr and each.raddr.port == remote_port for each in process.net_connections("tcp")):
                return int(process.pid)
        except psutil.NoSuchProcess:
            continue
    return None
