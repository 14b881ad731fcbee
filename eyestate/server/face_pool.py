"""Face detection for concurrent requests, on a bounded number of threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from eyestate.mtcnn import FaceDetector
from eyestate.server import processes
from eyestate.server.admission import overloaded, smoothed

_FIRST_ESTIMATE: Final = 0.1  # seconds for a photo

Result = TypeVar("Result")


class FacePool:
    """Runs face detection in as many threads as there are cores for it. Belongs to one event loop."""

    def __init__(self, detector: FaceDetector, *, threads: int, max_wait: float) -> None:
        """Args:
        detector: finds the faces.
        threads: photos that are searched at the same time.
        max_wait: seconds that a photo may be expected to wait for a thread; beyond that it is rejected.
        """
        self.detector = detector
        self._threads = threads
        self._max_wait = max_wait
        self._active = 0  # photos waiting or being searched
        self._seconds_per_photo = _FIRST_ESTIMATE
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="faces", initializer=processes.step_back)

    async def run(self, detect: Callable[[Callable[[], bool]], Result]) -> Result:
        """Call ``detect`` in a thread once one is free. Cancelling frees the place, once begun when the search ends.

        Args:
            detect: is given a function that says whether the result is no longer wanted.

        Raises:
            OverloadedError: too many photos are waiting.
        """
        wait = self._active * self._seconds_per_photo / self._threads
        if self._active >= self._threads and wait > self._max_wait:
            raise overloaded(f"{self._active:,} photos", wait - self._max_wait)
        loop = asyncio.get_running_loop()
        self._active += 1
        cancelled = threading.Event()
        search = self._pool.submit(_timed, partial(detect, cancelled.is_set))
        search.add_done_callback(lambda _: self._leave(loop))
        try:
            result, seconds = await asyncio.wrap_future(search)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        self._seconds_per_photo = smoothed(self._seconds_per_photo, seconds)
        return result

    def _leave(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop has ended before its threads
            loop.call_soon_threadsafe(self._forget)

    def _forget(self) -> None:
        self._active -= 1

    def close(self) -> None:
        """Release the threads; nothing may be run afterwards."""
        self._pool.shutdown(wait=False)


def _timed(detect: Callable[[], Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    return detect(), time.perf_counter() - started
