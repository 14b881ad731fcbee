"""Graceful shutdown under load: report not ready, finish accepted requests, exit in time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from typing import Any, Final

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
from tools.harness.servers import Server

CONNECTIONS: Final = 16
GRACE_SECONDS: Final = 30  # the Kubernetes default
_POLL_SECONDS: Final = 0.02


async def drain(server: Server, *, seconds: float) -> tuple[dict[str, Any], list[Claim]]:
    """Send SIGTERM while the service is busy; the load continues until the process has exited.

    Args:
        server: the service.
        seconds: of load before the signal.

    Returns:
        The figures for the report, and the claims.
    """
    generator = LoadGenerator(server.port, [http_request("/v1/score", crops.jpeg(crops.eye()))])
    stop = asyncio.Event()
    load = asyncio.create_task(generator.closed_loop(CONNECTIONS, stop))
    await asyncio.sleep(seconds)
    signalled = time.perf_counter()
    server.process.send_signal(signal.SIGTERM)
    not_ready = asyncio.create_task(until_not_ready(server))
    exited = await asyncio.to_thread(wait, server.process)
    ended = time.perf_counter()
    await asyncio.gather(load, stop_after(0, stop))
    generator.close()
    not_ready.cancel()
    flipped = (await asyncio.gather(not_ready, return_exceptions=True))[0]

    after = [outcome for outcome in generator.outcomes if outcome.sent >= signalled]
    refusals = [outcome.sent + outcome.seconds for outcome in after if outcome.status == 503]
    refused = min([*refusals, *([generator.first_refused] if generator.first_refused else [])], default=None)
    lost = [outcome for outcome in generator.outcomes if outcome.status is None]
    figures = request_counts(generator) | {
        "answered_after_sigterm": sum(outcome.status == 200 for outcome in after),
        "readyz_503_after_seconds": round(flipped - signalled, 3) if isinstance(flipped, float) else None,
        "first_refusal_after_seconds": round(refused - signalled, 3) if refused else None,
        "gone_after_seconds": round(ended - signalled, 3),
        "exit_code": server.process.returncode,
        "answered_ms": percentiles_ms(generator.outcomes, lambda outcome: outcome.status == 200),
    }
    claims = [
        all_accounted_for(generator),
        Claim("no request is lost", format_counts(losses(lost)), not lost),
        only_statuses(generator, 200, 503),
        Claim(
            "/readyz turns 503 before any request is refused",
            f"after {figures['readyz_503_after_seconds']} s; first refusal: {figures['first_refusal_after_seconds']} s",
            isinstance(flipped, float) and (refused is None or flipped < refused),
        ),
        Claim(
            f"the process exits within {GRACE_SECONDS} s",
            f"{ended - signalled:.1f} s",
            exited and ended - signalled < GRACE_SECONDS,
        ),
        Claim("the exit code is 0", str(server.process.returncode), server.process.returncode == 0),
    ]
    return figures, claims


async def until_not_ready(server: Server) -> float:
    """The ``time.perf_counter()`` at which ``/readyz`` first answers 503, polled on new connections like a kubelet."""
    while True:
        with contextlib.suppress(OSError, RequestLostError):
            connection = await Connection.open(server.port)
            answer = await connection.request(http_request("/readyz"))
            connection.close()
            if answer.status == 503:
                return time.perf_counter()
        await asyncio.sleep(_POLL_SECONDS)


def wait(process: subprocess.Popen[bytes]) -> bool:
    """Wait for the process to exit; whether it did within twice its grace period."""
    try:
        process.wait(2 * GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True
