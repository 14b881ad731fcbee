"""Graceful shutdown: report not ready, reject new requests, finish in-flight ones."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from eyestate.server.edge import Edge

log = logging.getLogger("eyestate.server.lifecycle")

_POLL_SECONDS = 0.05


@contextmanager
def graceful_shutdown(edge: Edge, drain_seconds: float) -> Iterator[None]:
    """Drain before the handler that was installed for SIGTERM runs.

    At the signal ``/readyz`` turns 503. For ``drain_seconds`` requests are still served, and every response closes its
    connection, so that load balancers can move traffic elsewhere. After that new requests are rejected with 503 and
    those in flight are finished. Then the previous handler runs: the server closes idle connections and exits.
    """
    loop = asyncio.get_running_loop()
    previous = signal.getsignal(signal.SIGTERM)

    async def drain() -> None:
        log.info("draining", extra={"seconds": drain_seconds, "active": edge.active})
        await asyncio.sleep(drain_seconds)
        edge.rejecting = True
        while edge.active:
            await asyncio.sleep(_POLL_SECONDS)
        log.info("drained")
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
