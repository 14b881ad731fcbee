"""SIGTERM under load: the probe says so first, what was accepted is answered, and the service is gone in time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from typing import Any, Final

from tools.harness import crops
from tools.harness.account import balanced, books, counts, only
from tools.harness.claims import Claim
from tools.harness.load import Connection, Generator, Lost, http_request, losses, percentiles_ms, stop_after
from tools.harness.servers import Server

CONNECTIONS: Final = 16
GRACE_SECONDS: Final = 30  # Kubernetes' default
_POLL_SECONDS: Final = 0.02


async def drain(server: Server, *, seconds: float) -> tuple[dict[str, Any], list[Claim]]:
    """Stop the service while it is busy; the load goes on until it is gone.

    Args:
        server: the service.
        seconds: of load before.
    """
    generator = Generator(server.port, [http_request("/v1/score", crops.jpeg(crops.eye()))])
    stop = asyncio.Event()
    load = asyncio.create_task(generator.closed_loop(CONNECTIONS, stop))
    await asyncio.sleep(seconds)
    signalled = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    not_ready = asyncio.create_task(until_not_ready(server))
    gone = await asyncio.to_thread(wait, server.process)
    ended = time.perf_counter()
    await asyncio.gather(load, stop_after(0, stop))
    generator.close()
    not_ready.cancel()
    flipped = (await asyncio.gather(not_ready, return_exceptions=True))[0]

    after = [outcome for outcome in generator.outcomes if outcome.sent >= signalled]
    refusals = [outcome.sent + outcome.seconds for outcome in after if outcome.status == 503]
    refused = min([*refusals, *([generator.first_refused] if generator.first_refused else [])], default=None)
    lost = [outcome for outcome in generator.outcomes if outcome.status is None]
    accepted = [outcome for outcome in lost if refused is None or outcome.sent < refused]
    figures = books(generator) | {
        "answered_after_sigterm": sum(outcome.status == 200 for outcome in after),
        "readyz_503_after_seconds": round(flipped - signalled, 3) if isinstance(flipped, float) else None,
        "first_refusal_after_seconds": round(refused - signalled, 3) if refused else None,
        "gone_after_seconds": round(ended - signalled, 3),
        "exit_code": server.process.returncode,
        "answered_ms": percentiles_ms(generator.outcomes, lambda outcome: outcome.status == 200),
    }
    claims = [
        balanced(generator),
        Claim("no request sent before the first refusal is lost", counts(losses(accepted)), not accepted),
        # Each client may meet it twice: in a connection that has no request yet, and in one that nobody takes any more.
        Claim(
            "after it, no client meets the port more than twice as it closes",
            f"{len(lost) - len(accepted)} requests lost, of at most {2 * CONNECTIONS}",
            len(lost) - len(accepted) <= 2 * CONNECTIONS,
        ),
        only(generator, 200, 503),
        Claim(
            "/readyz turns 503, and before anything is refused",
            f"after {figures['readyz_503_after_seconds']} s; first refusal: {figures['first_refusal_after_seconds']} s",
            isinstance(flipped, float) and (refused is None or flipped < refused),
        ),
        Claim(
            f"it is gone within {GRACE_SECONDS} s",
            f"{ended - signalled:.1f} s",
            gone and ended - signalled < GRACE_SECONDS,
        ),
        Claim("its exit code is 0", str(server.process.returncode), server.process.returncode == 0),
    ]
    return figures, claims


async def until_not_ready(server: Server) -> float:
    """The ``time.perf_counter()`` at which ``/readyz`` first answers 503, asked as a kubelet asks, newly connected."""
    while True:
        with contextlib.suppress(OSError, Lost):
            connection = await Connection.open(server.port)
            answer = await connection.ask(http_request("/readyz"))
            connection.close()
            if answer.status == 503:
                return time.perf_counter()
        await asyncio.sleep(_POLL_SECONDS)


def wait(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process ends within twice the time it is given."""
    try:
        process.wait(2 * GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True
