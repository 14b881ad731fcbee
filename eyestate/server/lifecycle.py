"""Graceful shutdown: report not ready, take what the kernel has taken, finish what is in flight."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from eyestate.server.edge import Edge

log = logging.getLogger("eyestate.server.lifecycle")

_ACCEPT_SECONDS = 0.5  # for connections that are in the kernel's queue when the supervisor lets no more into it


@contextmanager
def graceful_shutdown(edge: Edge, drain_seconds: float) -> Iterator[None]:
    """Drain before the handler that was installed for SIGTERM runs.

    At the signal ``/readyz`` turns 503. For ``drain_seconds`` connections are still taken, and every response closes
    its own, so that load balancers can move traffic elsewhere. Then the supervisor lets no new one begin; those it has
    let in are accepted and answered. The previous handler runs last: the server stops listening, closes idle
    connections, finishes the requests in flight and exits; a request that comes even later is rejected with 503.
    Without a supervisor nothing is waited for but the requests in flight.
    """
    loop = asyncio.get_running_loop()
    previous = signal.getsignal(signal.SIGTERM)
    supervisor = os.getppid()

    async def drain() -> None:
        seconds = drain_seconds if os.getppid() == supervisor else 0
        log.info("draining", extra={"seconds": seconds, "active": edge.active})
        await asyncio.sleep(seconds + _ACCEPT_SECONDS)
        edge.rejecting = True
        log.info("drained", extra={"active": edge.active})
        if callable(previous):
            previous(signal.SIGTERM, None)

    tasks = set()

    def begin() -> None:
        if not edge.draining:
            edge.draining = True
            tasks.add(loop.create_task(drain()))

    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(begin))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
