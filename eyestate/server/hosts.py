"""The names under which the service is reached: none that a page on the internet could have given to this computer."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Final

from eyestate.errors import HostNotAllowedError, MalformedRequestError

_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._~!$&'()*+,;=%-]*))(?::\d*)?", re.IGNORECASE)
_KNOWN: Final = 1_024  # values of Host that are remembered


class AllowedHosts:
    """Which values of ``Host`` are accepted.

    A page of evil.example can have that name point to 127.0.0.1 (DNS rebinding), and then reads what the service on
    this computer answers. So a service that listens on loopback addresses only, without keys, accepts only names that
    no such page can have: IP addresses, names without a dot, ``*.localhost``, and those of the settings. Where names
    are set, they are enforced everywhere.
    """

    def __init__(self, names: Collection[str], *, enforced: bool) -> None:
        """Args:
        names: the hosts of the settings, in lower case.
        enforced: whether others are refused.
        """
        self._names = frozenset(names)
        self._enforced = enforced
        self._accepted: set[bytes] = set()

    def check(self, value: bytes) -> None:
        """Whether a value of ``Host`` is accepted.

        Raises:
            MalformedRequestError: it is no host.
            HostNotAllowedError: it is none of those that are accepted.
        """
        if value in self._accepted:
            return
        match = _HOST.fullmatch(value.decode("latin-1"))
        if match is None:
            raise MalformedRequestError("Host is no name or address of a host")
        address, name = match.groups()
        if self._enforced and not address and not self._allows(name.lower().rstrip(".")):
            raise HostNotAllowedError(f"this is not {name}; if it is meant to be, name it in EYESTATE_ALLOWED_HOSTS")
        if len(self._accepted) < _KNOWN:
            self._accepted.add(value)

    def _allows(self, name: str) -> bool:
        return "." not in name or name in self._names or name.endswith(".localhost") or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def listening_addresses() -> list[str]:
    """The IP addresses on which this process listens."""
    addresses = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            listening = socket.socket(fileno=int(descriptor.name))
        except OSError:  # no socket, or closed by now
            continue
        if listening.family in (socket.AF_INET, socket.AF_INET6) and listening.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            addresses.append(listening.getsockname()[0])
        listening.detach()
    return addresses


def listens_on_loopback() -> bool:
    """Whether this process listens, and on loopback addresses only."""
    addresses = listening_addresses()
    return bool(addresses) and all(ipaddress.ip_address(address).is_loopback for address in addresses)
