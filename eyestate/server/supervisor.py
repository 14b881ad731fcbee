"""The process that starts the workers and starts them again: it forks them, with everything imported."""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from uvicorn.config import STARTUP_FAILURE

from eyestate.server import processes

log = logging.getLogger("eyestate.server.supervisor")

_STOP: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP})
_LEAST_SECONDS: Final = 1.0  # from one start in a place to the next
_MOST_DOUBLINGS: Final = 5  # of the second until the next start, in a place where none succeeds
_SO_BINDTOIFINDEX: Final = 62  # of Linux's asm-generic/socket.h
_NO_INTERFACE: Final = 2**31 - 1


@dataclass(frozen=True)
class _Worker:
    place: int
    started: float
    first: bool  # of its place


class Supervisor:
    """Keeps a worker running in each of a number of places, until a signal to stop.

    It waits for signals and for nothing else: nobody can send it a command.
    """

    def __init__(
        self,
        work: Callable[[int], object],
        places: int,
        *,
        sockets: Sequence[socket.socket],
        drain_seconds: float,
        on_death: Callable[[int], object],
    ) -> None:
        """Args:
        work: runs in a worker, whose place it is given, and returns when the worker has been told to stop.
        places: of workers, numbered from 1.
        sockets: on which the workers listen.
        drain_seconds: after the signal to stop, for which they take new connections.
        on_death: called with the place of a worker that has ended, before the next one is started there.
        """
        self._work = work
        self._sockets = sockets
        self._drain_seconds = drain_seconds
        self._on_death = on_death
        self._workers: dict[int, _Worker] = {}  # by process id
        self._due = dict.fromkeys(range(1, places + 1), 0.0)  # when to start the next worker in a place
        self._failures: Counter[int] = Counter()  # of a place, since a worker last ran there
        self._starts: Counter[int] = Counter()
        self._hopeless = False

    def run(self) -> bool:
        """Run until a signal to stop, or until the first worker of a place cannot start, which returns False."""
        gc.freeze()  # or the first collection in each worker would copy the memory that it shares with this process
        stop = {number for number in _STOP if signal.getsignal(number) != signal.SIG_IGN}
        with _blocked({*stop, signal.SIGCHLD}) as unblocked:
            while not self._hopeless:
                for place in [place for place, due in self._due.items() if due <= time.monotonic()]:
                    self._start(place, unblocked)
                if _wait(min(self._due.values(), default=math.inf), {*stop, signal.SIGCHLD}) in stop:
                    break
                self._replace_the_dead()
            self._stop(stop)
        return not self._hopeless

    def _start(self, place: int, unblocked: set[signal.Signals]) -> None:
        supervisor = os.getpid()
        try:
            process = os.fork()
        except OSError as error:  # the workers that live go on
            log.error("a worker cannot be started", extra={"place": place, "cause": error.strerror})
            self._due[place] = time.monotonic() + self._delay(place)
            return
        if not process:
            _become_worker(supervisor, unblocked, lambda: self._work(place))
        del self._due[place]
        self._starts[place] += 1
        self._workers[process] = _Worker(place, time.monotonic(), first=self._starts[place] == 1)

    def _replace_the_dead(self) -> None:
        for worker, code in self._dead():
            log.error("a worker has ended", extra={"place": worker.place, "cause": _cause(code)})
            if worker.first and code == STARTUP_FAILURE:
                self._hopeless = True
            self._on_death(worker.place)
            due = time.monotonic()
            if code < 0:  # it was killed, so it was able to start
                del self._failures[worker.place]
            else:
                due += self._delay(worker.place)
            self._due[worker.place] = max(worker.started + _LEAST_SECONDS, due)

    def _delay(self, place: int) -> float:
        """Seconds until the next start after another failure in a place: more and more."""
        self._failures[place] += 1
        return 2.0 ** min(self._failures[place], _MOST_DOUBLINGS)

    def _stop(self, stop: set[signal.Signals]) -> None:
        """Have the workers drain, and refuse connections once they have; those that are in the queue are served."""
        for process in self._workers:
            os.kill(process, signal.SIGTERM)
        refuse = time.monotonic() + self._drain_seconds
        while self._workers:
            _wait(refuse, {*stop, signal.SIGCHLD})
            for _ in self._dead():
                pass
            if refuse <= time.monotonic():
                refuse = math.inf
                for listening in self._sockets:
                    _refuse_connections(listening)
                    listening.close()

    def _dead(self) -> Iterator[tuple[_Worker, int]]:
        """Take the workers that have ended, with their exit codes, out of the others.

        As process 1 of a container this one also inherits what its workers leave behind.
        """
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not process:
                return
            if worker := self._workers.pop(process, None):
                yield worker, os.waitstatus_to_exitcode(status)


def _become_worker(supervisor: int, unblocked: set[signal.Signals], work: Callable[[], object]) -> NoReturn:
    """Work in a process that was just forked, and end it without a way back into what the supervisor was doing."""
    code = 1
    try:
        processes.end_with(supervisor)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        os.setsid()  # so that Ctrl-C reaches the supervisor alone, which lets the workers drain
        if sys.stdin is not None:  # closed before Python started
            os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # its reader has left, its disk is full, or there is none
                stream.flush()
        os._exit(code)


@contextmanager
def _blocked(signals: set[signal.Signals]) -> Iterator[set[signal.Signals]]:
    """Keep signals for ``_wait``. Gives the mask to return to."""
    before = {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, signals)}
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(until: float, signals: set[signal.Signals]) -> int | None:
    """The next signal, or None once it is time."""
    if until == math.inf:
        return signal.sigwait(signals)
    received = signal.sigtimedwait(signals, max(0.0, until - time.monotonic()))
    return received.si_signo if received else None


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _refuse_connections(listening: socket.socket) -> None:
    """Let no new connection begin on a socket, for all processes that share it, and keep those not yet accepted.

    The socket is bound to a network interface that does not exist, so the kernel no longer finds it for a new
    connection, which is refused. Those that have begun do not ask for it again. To close the socket at once would reset
    them. Any user may bind a socket that is not bound to an interface yet, since Linux 5.7.
    """
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)
    except OSError as error:
        log.warning("connections may be reset at the very end: %s", error.strerror)
