"""How a worker stops: first it says so, then it refuses, and only when all is answered does it go."""

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
def drained_on_sigterm(edge: Edge, seconds: float) -> Iterator[None]:
    """Put a drain before what SIGTERM does otherwise.

    At the signal ``/readyz`` turns 503, and for ``seconds`` requests are still taken, each answer closing its
    connection, so that whoever watches the probe can send its requests elsewhere. Then new requests are refused with
    503, those under way are finished, and the server takes over: it closes the idle connections and ends.
    """
    loop = asyncio.get_running_loop()
    otherwise = signal.getsignal(signal.SIGTERM)

    async def drain() -> None:
        log.info("draining", extra={"seconds": seconds, "active": edge.active})
        await asyncio.sleep(seconds)
        edge.refusing = True
        while edge.active:
            await asyncio.sleep(_POLL_SECONDS)
        log.info("drained")
        if callable(otherwise):
            otherwise(signal.SIGTERM, None)

    tasks = set()

    def begin() -> None:
        if not edge.draining:
            edge.draining = True
            tasks.add(loop.create_task(drain()))

    signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(begin))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, otherwise)
