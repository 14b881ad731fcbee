from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from eyestate.errors import HostNotAllowedError, MalformedRequestError
from eyestate.server.hosts import AllowedHosts

LOCAL = [
    b"localhost",
    b"LOCALHOST:3000",
    b"127.0.0.1:3000",
    b"[::1]:3000",
    b"10.1.2.3",
    b"eyestate:80",
    b"",
    b"a.localhost",
]
NAMES = [b"evil.example", b"evil.example:3000", b"evil.example.", b"127.0.0.1.evil.example", b"localhost.evil.example"]


@pytest.mark.parametrize("value", LOCAL)
def test_what_no_page_can_be_called_is_accepted(value: bytes) -> None:
    for _ in range(2):
        AllowedHosts((), enforced=True).check(value)


@pytest.mark.parametrize("value", NAMES)
def test_other_names_are_refused_where_it_is_enforced(value: bytes) -> None:
    hosts = AllowedHosts(("eyes.example",), enforced=True)
    for _ in range(2):
        with pytest.raises(HostNotAllowedError, match="EYESTATE_ALLOWED_HOSTS"):
            hosts.check(value)
    hosts.check(b"Eyes.example:443")
    AllowedHosts((), enforced=False).check(value)


@pytest.mark.parametrize("value", [b"[", b"//", b"a b", b"a@b", b"a:b", b"a:1:2", b"\xff", b"[::1", b"a/b"])
def test_what_is_no_host_is_malformed_anywhere(value: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        AllowedHosts((), enforced=False).check(value)


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [(["127.0.0.1"], True), (["0.0.0.0"], False), (["127.0.0.1", "0.0.0.0"], False), ([], False)],
)
def test_it_is_found_out_what_a_process_listens_on(addresses: list[str], expected: bool) -> None:
    sockets = [socket.create_server((address, 0)) for address in addresses]
    command = "from eyestate.server.hosts import listens_on_loopback; print(listens_on_loopback())"
    found = subprocess.run(
        [sys.executable, "-c", command],
        pass_fds=[each.fileno() for each in sockets],
        capture_output=True,
        text=True,
        check=True,
    )
    for each in sockets:
        each.close()
    assert found.stdout.strip() == str(expected)
