"""Responses on their way out."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle


async def send_response(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a response that is complete, with its ``Content-Length``.

    uvicorn takes the head and the body in two messages, writes each on its own, and examines each header by regular
    expressions. Where nothing stands between it and the application, this writes the whole at once, in half the time.
    """
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):
        await response(scope, receive, send)
        return
    if cycle.flow.write_paused:
        await cycle.flow.drain()  # the client reads earlier answers, or leaves
    if cycle.transport.is_closing():  # of pipelined requests, uvicorn tells only the last that the client has left
        cycle.disconnected = True
        return
    if (
        cycle.disconnected
        or (cycle.access_log and cycle.access_logger.isEnabledFor(logging.INFO))
        or scope["method"] == "HEAD"
    ):
        await response(scope, receive, send)
        return
    content, cycle.keep_alive = whole(response, cycle.default_headers, keep_alive=cycle.keep_alive)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.write(content)
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def whole(
    response: Response, default_headers: Iterable[tuple[bytes, bytes]], *, keep_alive: bool
) -> tuple[bytes, bool]:
    """All bytes of a response, and whether the connection stays open behind it.

    Args:
        response: that is complete, with its ``Content-Length``.
        default_headers: of the server.
        keep_alive: whether the connection may stay open.
    """
    pieces: list[bytes | memoryview] = [STATUS_LINE[response.status_code]]
    closes = False
    for headers in (default_headers, response.raw_headers):
        for name, value in headers:
            pieces += (name, b": ", value, b"\r\n")
            closes = closes or (name == b"connection" and value == b"close")
    if not (closes or keep_alive):
        pieces.append(b"connection: close\r\n")
    pieces += (b"\r\n", response.body)
    return b"".join(pieces), keep_alive and not closes


def head_bytes(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a response, to which further headers may be added before the empty line that ends it."""
    return STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % header for header in headers)
