"""Connections: limits on the size of request heads and on the time that clients may take.

uvicorn reads heads of any length and waits for the rest of one for ever. What is wrong with a connection is answered
here, before there is a request that the edge could answer, and in the same form.
"""

from __future__ import annotations

import logging
from asyncio import AbstractEventLoop, TimerHandle, Transport
from functools import partial
from random import getrandbits
from typing import Any, Final

import httptools
from uvicorn.config import HTTP_PROTOCOLS, Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from eyestate.errors import HeadTooLargeError, MalformedRequestError, RequestError, RequestTimeoutError
from eyestate.server import metrics
from eyestate.server.responses import error_response

log = logging.getLogger("eyestate.requests")

MAX_HEAD_BYTES: Final = 64 * 2**10
_LINGER_SECONDS: Final = 2.0  # for a rejected client to read the response, while what it sends is discarded


def install(timeout: float) -> None:
    """Have the server of this process speak HTTP through ``Connection``.

    BentoML's workers pass no ``http`` to uvicorn and have no option for it, so uvicorn takes the entry "auto" of its
    own table of protocols when it starts.

    Args:
        timeout: seconds that a connection may be idle, a head may take to arrive, and a client may not read.
    """
    HTTP_PROTOCOLS["auto"] = partial(Connection, timeout=timeout)  # type: ignore[assignment]  # uvicorn takes classes too


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with limits.

    uvicorn's timer for idle connections runs from the start of the connection and after each answer until the next
    head is complete, so that requests whose head comes in one piece pay for nothing else.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
        *,
        timeout: float,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.timeout_keep_alive: float = timeout  # type: ignore[assignment]  # uvicorn says int
        self.ws_protocol_class = None
        self._pending = 0  # bytes since the parser last completed a head, a piece of a body or a request
        self._head_began: float | None = None  # None outside heads
        self._refused = False
        self._unread: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the idle timer, which also limits the first head."""
        super().connection_made(transport)
        self._time(self.timeout_keep_alive)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._unset_keepalive_if_required()
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the next bytes."""
        if self._refused:
            return
        self._pending += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            fault = error.__context__ or error  # raised by a callback below
            self._refuse(fault if isinstance(fault, RequestError) else MalformedRequestError(f"no HTTP/1.1: {fault}"))
        except httptools.HttpParserUpgrade:
            pass  # upgrades are not supported, and the request is answered without one
        else:
            if self._pending > MAX_HEAD_BYTES:  # also for trailers and chunk extensions
                self._refuse(_too_large())

    def on_message_begin(self) -> None:
        """The first byte of a head has arrived."""
        super().on_message_begin()
        self._head_began = self.loop.time()

    def on_headers_complete(self) -> None:
        """A head is complete.

        Raises:
            HeadTooLargeError: it is over the limit.
        """
        if self._pending > MAX_HEAD_BYTES:  # may include bytes of the body in the same piece
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                raise _too_large()
        self._pending = 0
        self._head_began = None
        self._unset_keepalive_if_required()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body has arrived."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._pending = 0
        super().on_message_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection: no complete head arrived in time."""
        if self._head_began is None:
            self.transport.close()
            return
        left = self._head_began + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._time(left)  # the head started after an idle time
        else:
            self._refuse(RequestTimeoutError(f"the head was not complete within {self.timeout_keep_alive:g} s"))

    def pause_writing(self) -> None:
        """The client does not read its response: abort after the timeout, since closing would wait for it."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stop_waiting_for_reader()
        super().resume_writing()

    def _time(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _stop_waiting_for_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _refuse(self, error: RequestError) -> None:
        """Report an error in the byte stream, after the responses to earlier requests, and close."""
        self._refused = True
        request_id = b"%016x" % getrandbits(64)
        metrics.rejected(error.code)
        log.info(
            "%s %d",
            error.code,
            error.status,
            extra={
                "status": error.status,
                "request_id": request_id.decode(),
                "client": self.client[0] if self.client else None,
            },
        )
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                cycle.keep_alive = False  # the error is in the request behind it
                return
            if cycle.response_started or self.pipeline:
                self.transport.close()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        response = error_response(error)
        headers = [*self.server_state.default_headers, *response.raw_headers]
        headers += [(b"x-request-id", request_id), (b"connection", b"close")]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[error.status] + head + b"\r\n" + bytes(response.body))
        self._unset_keepalive_if_required()
        if self.transport.can_write_eof():
            self.transport.write_eof()  # closing immediately would reset the connection, and the response could be lost
            self.timeout_keep_alive_task = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)
        else:
            self.transport.close()


def _too_large() -> HeadTooLargeError:
    return HeadTooLargeError(f"the head of the request is over the limit of {MAX_HEAD_BYTES:,} bytes")
