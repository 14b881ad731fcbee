"""kill -9 of a worker, again and again, under load: what it was working on is lost, everything else is answered."""

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
from tools.harness.account import balanced, books, counts, only
from tools.harness.claims import Claim
from tools.harness.load import Connection, Generator, Lost, http_request, losses, percentiles_ms, stop_after
from tools.harness.servers import Server, ServerError

CONNECTIONS: Final = 16
REQUESTS_PER_CONNECTION: Final = 50  # else all would stay with the worker that was there all the time
BACK_SECONDS: Final = 30
_WORKER: Final = "--worker-id"  # in the command line of BentoML's workers
_POLL_SECONDS: Final = 0.05
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Kill:
    """One worker's end.

    ``in_flight`` counts the connections that it held, each with one request; ``back_seconds`` is the time until
    another worker in its place answered.
    """

    at_seconds: float
    in_flight: int
    back_seconds: float


async def kill(server: Server, *, workers: int, seconds: float, every: float) -> tuple[dict[str, Any], list[Claim]]:
    """Kill a random worker every few seconds, each time once the last one is back.

    Args:
        server: the service.
        workers: that it has.
        seconds: of load.
        every: seconds between kills, at least.
    """
    request = http_request("/v1/score", crops.jpeg(crops.eye()))
    generator = Generator(server.port, [request], REQUESTS_PER_CONNECTION)
    stop = asyncio.Event()
    load = asyncio.create_task(generator.closed_loop(CONNECTIONS, stop))
    chance = random.Random(_SEED)  # noqa: S311  # whom it hits need not be a secret
    started = time.perf_counter()
    kills: list[Kill] = []
    doomed_ports: set[int] = set()
    await asyncio.sleep(every)
    while time.perf_counter() - started < seconds:
        victim = chance.choice(await asyncio.to_thread(all_workers, server, workers))
        before = {worker.pid for worker in all_workers(server, workers)}
        ports = await asyncio.to_thread(strike, victim, server.port)
        at = time.perf_counter()
        doomed_ports |= ports
        back = await until_back(server, before)
        kills.append(Kill(round(at - started, 2), len(ports), round(back - at, 2)))
        await asyncio.sleep(every)
    await asyncio.gather(load, stop_after(0, stop))
    generator.close()

    lost = [outcome for outcome in generator.outcomes if outcome.status is None]
    strangers = [outcome for outcome in lost if outcome.local_port not in doomed_ports]
    answers = sorted(outcome.sent + outcome.seconds for outcome in generator.outcomes if outcome.status == 200)
    silence = max((later - earlier for earlier, later in itertools.pairwise(answers)), default=seconds)
    in_flight = sum(each.in_flight for each in kills)
    slowest = max((each.back_seconds for each in kills), default=0.0)
    figures = books(generator) | {
        "kills": [asdict(each) for each in kills],
        "in_flight_on_killed_workers": in_flight,
        "lost_elsewhere": len(strangers),
        "longest_silence_seconds": round(silence, 3),
        "answered_ms": percentiles_ms(generator.outcomes, lambda outcome: outcome.status == 200),
    }
    claims = [
        balanced(generator),
        Claim("workers were killed", str(len(kills)), bool(kills)),
        Claim(
            "only what a killed worker held is lost",
            f"{len(lost):,} lost ({counts(losses(generator.outcomes))}), {in_flight} in flight on killed workers, "
            f"{len(strangers)} elsewhere",
            not strangers and len(lost) <= in_flight,
        ),
        only(generator, 200),
        Claim("no connection is refused", f"{generator.refused}", generator.refused == 0),
        Claim("every worker comes back", f"within {slowest:.1f} s", slowest < BACK_SECONDS),
        Claim("the others keep serving: no second without an answer", f"longest {silence:.2f} s", silence < 1),
    ]
    return figures, claims


def all_workers(server: Server, wanted: int) -> list[psutil.Process]:
    """The worker processes.

    Raises:
        ServerError: there are not so many.
    """
    found = []
    for process in server.tree():
        try:
            if _WORKER in process.cmdline():
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    if len(found) != wanted:
        raise ServerError(f"the service has {len(found)} workers, not {wanted}")
    return found


def strike(worker: psutil.Process, port: int) -> set[int]:
    """Kill a worker and say which connections it held: the ports of their other ends.

    It is stopped before they are counted, so that none comes or goes meanwhile.
    """
    worker.send_signal(signal.SIGSTOP)
    held = worker.net_connections("tcp")
    worker.send_signal(signal.SIGKILL)
    return {each.raddr.port for each in held if each.raddr and each.laddr.port == port}


async def until_back(server: Server, before: set[int]) -> float:
    """The ``time.perf_counter()`` at which a worker answers that was not there before.

    Raises:
        ServerError: none does within ``BACK_SECONDS``.
    """
    deadline = time.perf_counter() + BACK_SECONDS
    while time.perf_counter() < deadline:
        try:
            connection = await Connection.open(server.port)
            await connection.ask(http_request("/livez"))
            asked = time.perf_counter()
            answerer = await asyncio.to_thread(owner, server, connection.local_port)
            connection.close()
        except (OSError, Lost):
            answerer = None
        if answerer is not None and answerer not in before:
            return asked
        await asyncio.sleep(_POLL_SECONDS)
    raise ServerError(f"no worker came back within {BACK_SECONDS} s")


def owner(server: Server, remote_port: int) -> int | None:
    """The id of the process of the server that holds the connection from a port."""
    for process in server.tree():
        try:
            if any(each.raddr and each.raddr.port == remote_port for each in process.net_connections("tcp")):
                return int(process.pid)
        except psutil.NoSuchProcess:
            continue
    return None
