"""A client that sends requests byte by byte."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import Any, NamedTuple


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of the error, in the form of the API."""
        error: dict[str, Any] = json.loads(self.body)
        assert set(error) == {"error"}
        assert set(error["error"]) == {"code", "message"}
        return str(error["error"]["code"])


class Client:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, *pieces: bytes, pause: float = 0.02) -> None:
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(pause)

    async def answer(self) -> Answer:
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), 20)
        status, *lines = head.decode().strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await asyncio.wait_for(self._reader.readexactly(int(headers.get("content-length", 0))), 20)
        return Answer(int(status.split()[1]), headers, body)

    async def closed(self) -> float:
        """Seconds until the other side has closed the connection, with nothing more to say."""
        started = time.perf_counter()
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(self._reader.read(), 20) == b""
        return time.perf_counter() - started

    def close(self) -> None:
        self._writer.close()
