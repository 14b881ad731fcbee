"""A minimal HTTP server whose own counts can be compared with those of a load generator."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

Reply = Callable[[int], bytes | None]


@dataclass
class TinyServer:
    """Answers the n-th request with ``reply(n)``; None closes the connection."""

    reply: Reply
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    delay: float = 0.0
    hang_up: bool = False  # after every response
    conversations: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if task := asyncio.current_task():
            self.conversations.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                body = await reader.readexactly(int(lengths[0].partition(b":")[2])) if lengths else b""
                number = len(self.requests)
                self.requests.append(head + body)
                await asyncio.sleep(self.delay)
                if (answer := self.reply(number)) is None:
                    break
                writer.write(answer)
                await writer.drain()
                if self.hang_up:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def reply(status: int, body: bytes = b"{}", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body)}", *headers, "\r\n"]
    return "\r\n".join(lines).encode() + body


@contextmanager
def tiny_server(answer: Reply) -> Iterator[TinyServer]:
    """Run a server in a separate thread."""
    server = TinyServer(answer)
    started, stopping = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.port = listening.sockets[0].getsockname()[1]
        started.set()
        await stopping.wait()
        listening.close()
        await asyncio.sleep(0.02)  # let clients that have just connected be accepted
        for conversation in server.conversations:
            conversation.cancel()
        await asyncio.gather(*server.conversations, return_exceptions=True)
        await asyncio.sleep(0.05)  # their transports close in the loop's next iterations

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        loops[0].call_soon_threadsafe(stopping.set)
        thread.join(10)


@pytest.fixture
def ok_server() -> Iterator[TinyServer]:
    with tiny_server(lambda _: reply(200)) as server:
        yield server
