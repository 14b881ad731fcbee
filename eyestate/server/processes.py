"""What a worker process tells the system of itself."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger("eyestate.server.processes")

_ANSWER_SECONDS: Final = 0.5  # to send what has been answered
_BEHIND: Final = 10  # nice: a tenth of the time of a thread that is as busy and has 0
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_ARG_START, _ARG_END = 45, 46  # fields 48 and 49 of proc_pid_stat(5), counted from the third


def end_with(parent: int) -> None:
    """Have the kernel send this process SIGTERM when the process that started it ends, however that ends.

    Raises:
        SystemExit: it has ended already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(1)


def end_soon(why: str) -> None:
    """End this worker, which cannot score any more, once its requests have been told; the supervisor starts another."""
    log.error("the worker ends: %s", why)
    asyncio.get_running_loop().call_later(_ANSWER_SECONDS, os._exit, 1)


def show_command(*arguments: str) -> None:
    """Have ``ps`` show other arguments for this process, cut to the room that its own took."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    shown = "\0".join(arguments).encode()[: end - start - 1]
    ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)


def step_back(nice: int = _BEHIND) -> None:
    """Have this thread, for whose result others wait anyway, leave the cores to the event loop whenever that has work.

    On Linux, where each thread has a priority of its own. Threads that it starts from now on inherit it, and nobody may
    raise it again.
    """
    if sys.platform == "linux":
        with suppress(OSError):  # of a sandbox
            os.nice(nice)
