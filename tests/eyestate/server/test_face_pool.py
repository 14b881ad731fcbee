"""Photos of many requests at a time."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable

import pytest

from eyestate.errors import OverloadedError, UnsupportedImageError
from eyestate.mtcnn import FaceDetector
from eyestate.server.face_pool import FacePool


class NoDetector(FaceDetector):
    def __init__(self) -> None:
        pass


class TestFacePool:
    def test_runs_as_many_as_there_are_threads(self) -> None:
        together, most = 0, 0
        lock, pair = threading.Lock(), threading.Barrier(2)

        def look(is_cancelled: Callable[[], bool]) -> int:
            nonlocal together, most
            with lock:
                together += 1
                most = max(most, together)
            pair.wait(10)
            with lock:
                together -= 1
            return threading.get_ident()

        async def many() -> list[int]:
            pool = FacePool(NoDetector(), threads=2, max_wait=10)
            try:
                return await asyncio.gather(*(pool.run(look) for _ in range(6)))
            finally:
                pool.close()

        assert len(set(asyncio.run(many()))) == 2
        assert most == 2

    def test_too_many_are_rejected(self) -> None:
        go = threading.Event()

        async def crowd() -> list[bool | BaseException]:
            pool = FacePool(NoDetector(), threads=1, max_wait=0.35)  # of photos that are thought to take 0.1 s
            tasks = [asyncio.ensure_future(pool.run(lambda _: go.wait(10))) for _ in range(6)]
            await asyncio.sleep(0)
            go.set()
            try:
                return await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                pool.close()

        results = asyncio.run(crowd())
        refused = [result for result in results if isinstance(result, OverloadedError)]
        assert results[:4] == [True] * 4
        assert len(refused) == 2
        assert refused[0].retry_after == 1

    def test_a_search_that_goes_on_keeps_its_place(self) -> None:
        """A thread stops at the end of a step only: who comes next must not be told that it were free."""
        go = threading.Event()

        async def impatient() -> None:
            pool = FacePool(NoDetector(), threads=1, max_wait=0.05)  # less than a photo is thought to take
            first = asyncio.ensure_future(pool.run(lambda _: go.wait(10)))
            await asyncio.sleep(0.05)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            with pytest.raises(OverloadedError):
                await pool.run(lambda _: None)
            go.set()
            await asyncio.sleep(0.1)
            await pool.run(lambda _: None)
            pool.close()

        asyncio.run(impatient())

    def test_cancelling_frees_the_place(self) -> None:
        go, looked = threading.Event(), []

        async def impatient() -> None:
            pool = FacePool(NoDetector(), threads=1, max_wait=10)
            first = asyncio.ensure_future(pool.run(lambda _: go.wait(10)))
            second = asyncio.ensure_future(pool.run(lambda _: looked.append(2)))
            await asyncio.sleep(0)
            second.cancel()
            await asyncio.gather(second, return_exceptions=True)
            go.set()
            assert await first
            await pool.run(lambda _: looked.append(3))
            pool.close()

        asyncio.run(impatient())
        assert looked == [3]

    def test_a_search_is_told_that_nobody_waits_for_it(self) -> None:
        begun, told = threading.Event(), threading.Event()

        def look(is_cancelled: Callable[[], bool]) -> None:
            begun.set()
            while not is_cancelled():
                time.sleep(0.01)
            told.set()

        async def impatient() -> None:
            pool = FacePool(NoDetector(), threads=1, max_wait=10)
            search = asyncio.ensure_future(pool.run(look))
            await asyncio.to_thread(begun.wait, 10)
            search.cancel()
            await asyncio.gather(search, return_exceptions=True)
            assert await asyncio.to_thread(told.wait, 10)
            await pool.run(lambda _: None)
            pool.close()

        asyncio.run(impatient())

    def test_errors_reach_the_caller(self) -> None:
        def broken(is_cancelled: Callable[[], bool]) -> None:
            raise UnsupportedImageError("no photo")

        async def one() -> None:
            pool = FacePool(NoDetector(), threads=1, max_wait=10)
            try:
                await pool.run(broken)
            finally:
                pool.close()

        with pytest.raises(UnsupportedImageError):
            asyncio.run(one())

    @pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
    def test_looks_behind_the_event_loop(self) -> None:
        async def priority() -> int:
            pool = FacePool(NoDetector(), threads=1, max_wait=10)
            try:
                return await pool.run(lambda _: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            finally:
                pool.close()

        assert asyncio.run(priority()) > os.getpriority(os.PRIO_PROCESS, 0)  # that of this thread
