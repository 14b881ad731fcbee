"""A stream of requests over gRPC, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from eyestate.server.openinference import grpc_server
from eyestate.server.openinference.grpc_server import GrpcServer


def test_who_leaves_a_stream_is_worked_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "_ON_STREAM", 4)
    begun, cancelled = [], []

    async def requests() -> AsyncIterator[bytes]:
        for number in range(100):
            yield bytes([number])

    async def streamed(data: bytes, _: object) -> bytes:
        begun.append(data[0])
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(data[0])
            raise
        return data

    async def leave() -> None:
        server = cast("GrpcServer", SimpleNamespace(_streamed=streamed, _timeout=60))
        stream = asyncio.create_task(GrpcServer._stream(server, requests(), None))
        await asyncio.sleep(0.1)
        stream.cancel()
        await asyncio.wait([stream])
        await asyncio.sleep(0)
        assert begun == cancelled == [0, 1, 2, 3]

    asyncio.run(leave())


def test_a_stream_ends_where_no_more_can_be_read() -> None:
    written: list[Any] = []

    async def requests() -> AsyncIterator[bytes]:
        yield b"0"
        raise ValueError("damaged")

    async def streamed(data: bytes, _: object) -> bytes:
        return data

    async def write(answer: bytes) -> None:
        written.append(answer)

    async def read() -> None:
        server = cast("GrpcServer", SimpleNamespace(_streamed=streamed, _timeout=60))
        async with asyncio.timeout(10):
            await GrpcServer._stream(server, requests(), SimpleNamespace(write=write))

    asyncio.run(read())
    assert written == [b"0"]
