"""Connections that wait, on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import sys

import pytest
import uvloop

from eyestate.server import accepting
from eyestate.server.accepting import Acceptor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells how many connections wait")
CLIENTS = 48


def accepted(iterations: int) -> int:
    """How many of the connections that wait one worker accepts in so many iterations of the event loop."""
    made: list[asyncio.BaseTransport] = []
    acceptor = Acceptor(1)

    class Noting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)
            acceptor.take(Noting, None, transport.get_extra_info("sockname")[1])

    async def work() -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Noting, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        clients = [socket.create_connection(address) for _ in range(CLIENTS)]  # while the loop is busy
        for _ in range(iterations):
            await asyncio.sleep(0.001)
        number = len(made)
        for transport in made:
            transport.close()
        for client in clients:
            client.close()
        server.close()
        await server.wait_closed()
        return number

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def test_one_worker_takes_all() -> None:
    assert accepted(4) == CLIENTS


def test_of_several_each_takes_its_share() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=CLIENTS) as listening:
        clients = [socket.create_connection(listening.getsockname()) for _ in range(CLIENTS)]
        taken = [*accepting._accept(listening.fileno(), 4)]
        assert len(taken) == CLIENTS // 4
        assert [len([*accepting._accept(listening.fileno(), CLIENTS)]), listening.fileno() >= 0] == [0, True]
        for each in [*taken, *clients]:
            each.close()


def test_other_files_are_let_alone() -> None:
    """Also one that has the number of a listening socket that was closed."""
    reader, writer = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as other, socket.create_connection(other.getsockname()):
        acceptor = Acceptor(1)
        acceptor._descriptors = [reader, writer, other.fileno() + 1_000]

        async def work() -> None:
            acceptor.take(asyncio.Protocol, None, 1)
            await asyncio.sleep(0)

        asyncio.run(work())
    os.close(reader)
    os.close(writer)


def test_the_sockets_of_another_port_are_let_alone() -> None:
    """As those of gRPC."""
    with socket.create_server(("127.0.0.1", 0)) as ours, socket.create_server(("127.0.0.1", 0)):
        assert accepting._listening(ours.getsockname()[1]) == [ours.fileno()]
