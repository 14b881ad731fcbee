"""Connections that wait to be accepted: the event loop takes one in each of its iterations, and the rest is taken here.

With hundreds of busy connections an iteration takes tens of milliseconds, so the last of a hundred new ones would wait
for seconds, while their clients' time runs.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_LISTENING: Final = 10  # TCP_LISTEN
_INFO_BYTES: Final = 28  # of Linux' struct tcp_info, up to the number that waits
_WAITING: Final = slice(24, 28)  # in tcpi_unacked, of a socket that listens


class Acceptor:
    """Takes this worker's share of the connections that wait behind one that was accepted. Belongs to one event loop.

    All workers listen on the same sockets, so each leaves the others theirs: idle ones are quick to take them.
    """

    def __init__(self, workers: int) -> None:
        """Args:
        workers: among which connections are divided.
        """
        self._workers = workers
        self._descriptors: list[int] | None = None
        self._taken = False  # in this iteration of the event loop
        self._opening: set[asyncio.Task[object]] = set()

    def take(self, make: Callable[[], asyncio.BaseProtocol], tls: ssl.SSLContext | None, port: int) -> None:
        """Accept further connections, unless that has been done in this iteration of the event loop.

        Args:
            make: makes what speaks on a connection.
            tls: for https.
        port: to which they come; gRPC listens on another, and accepts its own.
        """
        if self._taken or sys.platform != "linux":
            return
        self._taken = True
        loop = asyncio.get_running_loop()
        loop.call_soon(self._end_turn)
        if self._descriptors is None:
            self._descriptors = _listening(port)
        for descriptor in self._descriptors:
            for accepted in _accept(descriptor, self._workers):
                task = loop.create_task(loop.connect_accepted_socket(make, accepted, ssl=tls))
                self._opening.add(task)
                task.add_done_callback(self._opened)

    def _end_turn(self) -> None:
        self._taken = False

    def _opened(self, task: asyncio.Task[object]) -> None:
        self._opening.discard(task)
        if not task.cancelled():
            task.exception()  # of a handshake, which the client has seen to


def _listening(port: int) -> list[int]:
    """The descriptors of the TCP sockets on which this process listens, on one port."""
    found = []
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if _waiting(descriptor)[0]:
            listening = socket.socket(fileno=descriptor)
            if listening.getsockname()[1] == port:
                found.append(descriptor)
            listening.detach()
    return found


def _accept(descriptor: int, workers: int) -> Iterator[socket.socket]:
    """This worker's share of the connections that wait."""
    _, waiting = _waiting(descriptor)
    if waiting < workers:
        return
    listening = socket.socket(fileno=descriptor)
    try:
        listening.setblocking(False)
        for _ in range(waiting // workers):
            accepted, _ = listening.accept()
            accepted.setblocking(False)
            yield accepted
    except OSError:  # another worker was quicker, or there are too many open files
        pass
    finally:
        listening.detach()


def _waiting(descriptor: int) -> tuple[bool, int]:
    """Whether a descriptor is of a TCP socket that listens, and how many connections wait on it."""
    try:
        found = socket.socket(fileno=descriptor)
    except OSError:  # no socket, or closed by now
        return False, 0
    try:
        info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    except OSError:  # no TCP
        return False, 0
    finally:
        found.detach()
    return info[0] == _LISTENING, int.from_bytes(info[_WAITING], sys.byteorder)
