"""The memory of a worker: how much is used at a time, and that what was used for a giant is given back."""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

BYTES_PER_PIXEL: Final = 16  # while an image is decoded: at worst four copies in RGBA, composited
_M_MMAP_THRESHOLD: Final = -3  # of malloc.h
_RETURN_SECONDS: Final = 10.0
_LARGE_BYTES: Final = 2**20  # above the buffers that every request needs anew, of which each would be mapped


class Room:
    """Memory that several threads share for work, first come, first served.

    Who finds too little left waits until others have finished; whoever comes later waits behind, however little it
    needs, or the small ones that keep coming would never leave room for a large one.
    """

    def __init__(self, limit: int) -> None:
        self.was_used = False  # since somebody last said so
        self._limit = limit
        self._used = 0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Use that many bytes within the block; what is beyond the limit waits until it is alone."""
        size, ticket = min(size, self._limit), object()
        with self._changed:
            self._queue.append(ticket)
            self._changed.wait_for(lambda: self._queue[0] is ticket and self._used + size <= self._limit)
            self._queue.popleft()
            self._used += size
            self.was_used = True
            self._changed.notify_all()  # there may be room for the next one too
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


WORK_BYTES: Final = 512 * 2**20
WORK: Final = Room(WORK_BYTES)  # for decoding images and converting crops, beside bodies


def return_large_blocks() -> None:
    """Have the C library give each large block back to the system once it is freed.

    glibc raises its threshold for doing so to the largest block freed, up to 32 MiB, and keeps what is below for the
    thread that freed it: a few threads that decoded large images once would hold gigabytes for good.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


async def return_regularly(returns: Callable[[], object]) -> None:
    """Give what was freed back to the system, a while after work that took room. Runs until cancelled.

    Threads leave blocks in use behind, of which one keeps all the memory below it: 40 MiB for a few of the largest
    images.

    Args:
        returns: gives back what others keep; called in a thread, as what gives back what the C library keeps.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; it takes 3 to 20 ms
    while True:
        await asyncio.sleep(_RETURN_SECONDS)
        if WORK.was_used:
            WORK.was_used = False
            await asyncio.to_thread(returns)
            if trim is not None:
                await asyncio.to_thread(trim, 0)
