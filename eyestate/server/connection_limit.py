"""How many connections a worker holds open, in all and of one address, and which of them goes first."""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

log = logging.getLogger("eyestate.requests")

MAX_CONNECTIONS: Final = 4_096  # four times the requests that are worked for
_SPARE_FILES: Final = 24  # for what else is opened, and connections that are accepted before one is closed
_OTHER_FILES: Final = 256  # that a worker may have open, besides connections
_LOG_SECONDS: Final = 10.0


class Closable(Protocol):
    """A connection."""

    @property
    def address(self) -> str:
        """Where it comes from."""

    def give_way(self) -> None:
        """Close it."""


class ConnectionLimit:
    """Closes a connection for each that is over the limit: the one that is idle longest.

    One address gets three quarters of the connections; for each more, one of its own is closed.

    Without file descriptors, new clients would be cut off silently: libuv accepts their connections and closes them.
    """

    def __init__(self, end_slowest_upload: Callable[[], bool], limit: int | None = None) -> None:
        """Args:
        end_slowest_upload: called where no connection is idle; whether there was one.
        limit: of connections; by default what the limit of open files allows.
        """
        self._end_slowest_upload = end_slowest_upload
        self._limit = limit
        self._open = 0
        self._of_address: dict[str, int] = {}
        self._idle: dict[Closable, None] = {}  # those idle longest first
        self._closed = 0
        self._logged = -_LOG_SECONDS

    def opened(self, connection: Closable) -> None:
        """Count a new connection, which is idle until ``busy``, and make room for it."""
        if self._limit is None:  # at the first one, when the service has opened what it needs
            self._limit = _affordable()
        address = connection.address
        own = self._of_address.get(address, 0) + 1
        self._open += 1
        self._of_address[address] = own
        self._idle[connection] = None
        if own > self._limit - self._limit // 4:
            self._close(next(idle for idle in self._idle if idle.address == address))
        elif self._open > self._limit:
            self._make_room(connection)

    def closed(self, connection: Closable) -> None:
        """Count a connection no more."""
        address = connection.address
        self._open -= 1
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]
        self._idle.pop(connection, None)

    def busy(self, connection: Closable) -> None:
        """A request has begun."""
        self._idle.pop(connection, None)

    def idle(self, connection: Closable) -> None:
        """A request has been answered."""
        self._idle[connection] = None

    def _make_room(self, newest: Closable) -> None:
        longest = next(iter(self._idle))
        if longest is not newest or not self._end_slowest_upload():
            self._close(longest)
        else:
            self._count()

    def _close(self, connection: Closable) -> None:
        del self._idle[connection]
        connection.give_way()
        self._count()

    def _count(self) -> None:
        self._closed += 1
        now = time.monotonic()
        if now - self._logged > _LOG_SECONDS:
            log.warning("too many connections", extra={"limit": self._limit, "closed": self._closed})
            self._closed, self._logged = 0, now


def allow_files() -> None:
    """Raise the limit of open files to what the connections need, as far as the system lets this process do it."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + _OTHER_FILES
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    if files != resource.RLIM_INFINITY and files < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _affordable() -> int:
    """Connections for which there are file descriptors."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    in_use = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return max(1, min(MAX_CONNECTIONS, files - in_use - _SPARE_FILES))
