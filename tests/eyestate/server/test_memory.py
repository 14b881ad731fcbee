from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from eyestate.server import memory
from eyestate.server.memory import Room

KEPT = """
import ctypes, sys, threading
from eyestate.server import memory
if sys.argv[1] == "returned":
    memory.return_large_blocks()
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def work():
    for size in (31 * 2**20, 2**24, 2**24, 2**24):  # the first raises glibc's threshold
        blocks = [malloc(size) for _ in range(8)]
        small = malloc(100)  # above which nothing is trimmed
        for block in blocks:
            ctypes.memset(block, 1, size)
        for block in blocks:
            free(block)

worker = threading.Thread(target=work)
worker.start()
worker.join()
print(int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20)
"""


class TestRoom:
    def test_is_never_used_beyond_its_limit(self) -> None:
        room, lock = Room(100), threading.Lock()
        used = most = 0

        def work(size: int) -> None:
            nonlocal used, most
            with room.take(size):
                with lock:
                    used += size
                    most = max(most, used)
                time.sleep(0.001)
                with lock:
                    used -= size

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, [1, 40, 60, 99, 50, 30] * 10))
        assert used == 0
        assert 80 <= most <= 100

    def test_what_is_larger_is_alone(self) -> None:
        room, order = Room(100), []

        def work() -> None:
            with room.take(1_000):
                order.append("large")

        with ThreadPoolExecutor(1) as pool:
            with room.take(1):
                waiting = pool.submit(work)
                time.sleep(0.05)
                order.append("small")
            waiting.result(5)
        assert order == ["small", "large"]

    def test_who_came_first_is_served_first(self) -> None:
        """However large: small ones that keep coming would never leave room for it."""
        room, order = Room(100), []

        def work(size: int) -> None:
            with room.take(size):
                order.append(size)

        with ThreadPoolExecutor(3) as pool:
            with room.take(50):
                waiting = []
                for size in (100, 1, 2):
                    waiting.append(pool.submit(work, size))
                    time.sleep(0.05)
                assert order == []
            for each in waiting:
                each.result(5)
        assert order[0] == 100
        assert sorted(order) == [1, 2, 100]

    def test_is_returned_after_an_error(self) -> None:
        room = Room(100)
        for _ in range(2):
            with pytest.raises(ValueError, match="broken"), room.take(100):
                raise ValueError("broken")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_large_blocks_are_given_back() -> None:
    kept = {
        mode: int(subprocess.run([sys.executable, "-c", KEPT, mode], capture_output=True, text=True, check=True).stdout)
        for mode in ("as usual", "returned")
    }
    assert kept["returned"] < 100, kept


class TestReturning:
    def test_happens_once_after_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "_RETURN_SECONDS", 0.01)
        returned: list[str] = []

        async def run() -> None:
            with memory.WORK.take(1):
                pass
            task = asyncio.create_task(
                memory.return_regularly(lambda: returned.append(threading.current_thread().name))
            )
            await asyncio.sleep(0.2)
            task.cancel()

        asyncio.run(run())
        assert len(returned) == 1
        assert returned != ["MainThread"]
