"""Responses as they leave, beside what uvicorn itself writes for them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from eyestate.server.sending import send_response


class Transport:
    """Takes what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True


class Exchange:
    """A request that is to be answered, with what its connection sees of it."""

    def __init__(self, method: str = "POST", keep_alive: bool = True, log_level: int = logging.WARNING) -> None:
        self.transport = Transport()
        self.completed = 0
        access_log = logging.getLogger("tests.access")
        access_log.setLevel(log_level)
        self.scope = {"type": "http", "method": method, "http_version": "1.1", "path": "/", "query_string": b""}
        self.cycle = RequestResponseCycle(
            cast("Any", self.scope),
            transport=cast("Any", self.transport),
            flow=FlowControl(cast("Any", self.transport)),
            logger=logging.getLogger("tests"),
            access_logger=access_log,
            access_log=True,
            default_headers=[(b"server", b"eyestate"), (b"date", b"today")],
            message_event=asyncio.Event(),
            expect_100_continue=True,
            keep_alive=keep_alive,
            on_response=self._on_response,
        )

    def _on_response(self) -> None:
        self.completed += 1

    def answered_by(self, application: Any) -> tuple[bytes, bool, int, bool, bool]:
        async def run() -> None:
            await self.cycle.run_asgi(application)

        asyncio.run(run())
        return (
            b"".join(self.transport.written),
            self.transport.closed,
            self.completed,
            self.cycle.response_complete,
            self.cycle.waiting_for_100_continue,
        )


RESPONSES = {
    "text": lambda: PlainTextResponse("open"),
    "empty": lambda: Response(status_code=200),
    "error that closes": lambda: PlainTextResponse("late", 408, headers={"Connection": "close"}),
    "error that offers an upgrade": lambda: Response(status_code=426, headers={"Connection": "Upgrade"}),
    "no content": lambda: Response(status_code=204),
    "more headers": lambda: Response(b"\0" * 1_000, headers={"X-Request-ID": "1"}, media_type="application/x-npy"),
}


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("method", ["POST", "HEAD"])
def test_the_same_bytes_leave_as_from_uvicorn(response: Any, keep_alive: bool, method: str) -> None:
    async def ours(scope: Scope, receive: Receive, send: Send) -> None:
        await send_response(response(), scope, receive, send)

    assert Exchange(method, keep_alive).answered_by(ours) == Exchange(method, keep_alive).answered_by(response())


def test_all_of_it_is_written_at_once() -> None:
    async def ours(scope: Scope, receive: Receive, send: Send) -> None:
        await send_response(PlainTextResponse("open"), scope, receive, send)

    exchange = Exchange()
    exchange.answered_by(ours)
    assert len(exchange.transport.written) == 1


def test_what_stands_between_sees_every_response() -> None:
    async def ours(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"access-control-allow-origin", b"*"))
            await send(message)

        await send_response(PlainTextResponse("open"), scope, receive, with_header)

    written, *_ = Exchange().answered_by(ours)
    assert b"\r\naccess-control-allow-origin: *\r\n" in written


def test_a_client_that_has_gone_gets_nothing() -> None:
    async def ours(scope: Scope, receive: Receive, send: Send) -> None:
        await send_response(PlainTextResponse("open"), scope, receive, send)

    exchange = Exchange()
    exchange.cycle.disconnected = True
    assert exchange.answered_by(ours)[0] == b""


def test_an_access_log_that_is_on_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    async def ours(scope: Scope, receive: Receive, send: Send) -> None:
        await send_response(PlainTextResponse("open"), scope, receive, send)

    Exchange(log_level=logging.INFO).answered_by(ours)
    assert '"POST / HTTP/1.1" 200' in caplog.text


@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("left", [True, False])
def test_a_client_that_does_not_read_is_waited_for_until_it_leaves(method: str, left: bool) -> None:
    exchange = Exchange(method)
    # uvicorn calls them, and this transport has none.
    exchange.transport.pause_reading = exchange.transport.resume_reading = lambda: None  # type: ignore[attr-defined]
    exchange.cycle.flow.pause_writing()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        answer = asyncio.create_task(send_response(PlainTextResponse("open"), scope, receive, send))
        await asyncio.sleep(0)
        assert not exchange.transport.written
        exchange.transport.closed = left
        exchange.cycle.flow.resume_writing()
        await answer

    written, *_ = exchange.answered_by(application)
    assert bool(written) != left
