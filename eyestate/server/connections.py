"""Connections: where requests begin and end, how large their heads may be, and how long clients may take.

uvicorn reads heads of any length, waits for the rest of one for ever, and takes what follows the offer of an upgrade
for the next request. What is wrong with a connection is answered here, before there is a request that the edge could
answer, and in the same form.
"""

from __future__ import annotations

import logging
import math
import os
import time
from asyncio import AbstractEventLoop, TimerHandle, Transport
from functools import partial
from random import getrandbits
from typing import Any, Final, Protocol, cast

import httptools
from starlette.types import Scope
from uvicorn.config import HTTP_PROTOCOLS, Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware, _TrustedHosts
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from eyestate.errors import HeadTooLargeError, MalformedRequestError, RequestError, RequestTimeoutError
from eyestate.server import metrics
from eyestate.server.accepting import Acceptor
from eyestate.server.connection_limit import ConnectionLimit, allow_files
from eyestate.server.edge import AWAITED
from eyestate.server.fast_path import MAX_BYTES, PATH, DirectRequest, FastPath
from eyestate.server.handshake import PATH as STREAM_PATH
from eyestate.server.handshake import opens_stream
from eyestate.server.hosts import AllowedHosts, listens_on_loopback
from eyestate.server.responses import error_response
from eyestate.settings import Settings

log = logging.getLogger("eyestate.requests")

MAX_HEAD_BYTES: Final = 64 * 2**10
MAX_HEADERS: Final = 256  # of a request; 9,000 fit into its bytes and would take 5 ms of the event loop
MAX_PIPELINED: Final = 64  # requests behind one that is not answered yet: thousands fit into one read
_LINGER_SECONDS: Final = 2.0  # for a rejected client to read the response, while what it sends is discarded
_BODY_SECONDS: Final = 0.25  # that the fast path waits for the rest of a body: many clients send it behind the head
_LAST_SECONDS: Final = 1.0  # for a request on its way when the server stops
_VERSIONS: Final = ("1.1", "1.0")
# The headers that say where a request ends and whom it is for, of which each request has one at most. As trailers they
# are forbidden (RFC 9110, 6.5.1).
_FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})
_NO_TRAILERS: Final = _FRAMING | {b"connection", b"upgrade"}


class Gate(Protocol):
    """What knows, before there is a request, whether there will be room for it."""

    def expect(self, client: str) -> str | None:
        """Why there will be no place for another request of an address, None where there should be one."""

    def full(self, client: str) -> str | None:
        """As ``expect``, of a request that takes its place at once."""

    def refusal(self, scope: Scope, why: str) -> bytes | None:
        """The answer for that reason; None where the request has to be handled like any other."""

    def end_slowest_upload(self) -> bool:
        """Make room where no connection is idle; whether there was such an upload."""


def install(settings: Settings, gate: Gate, fast_path: FastPath | None) -> None:
    """Have the server of this process speak HTTP through ``Connection``.

    BentoML's workers pass no ``http`` to uvicorn and have no option for it, so uvicorn takes the entry "auto" of its
    own table of protocols when it starts.

    Args:
        settings: of the service.
        gate: of the application.
        fast_path: answers plain requests; None leaves them to the application, too.
    """
    allow_files()
    os.environ["FORWARDED_ALLOW_IPS"] = ",".join(
        map(str, settings.trusted_proxies)
    )  # uvicorn's: else it trusts 127.0.0.1
    hosts = AllowedHosts(
        settings.allowed_hosts,
        enforced=bool(settings.allowed_hosts) or (settings.api_keys_file is None and listens_on_loopback()),
    )
    protocol = partial(
        Connection,
        timeout=settings.timeout,
        keep_alive=settings.keep_alive,
        hosts=hosts,
        limit=ConnectionLimit(gate.end_slowest_upload),
        # Behind a proxy the address of the client is in a header, and answers for other sites' pages are marked.
        gate=None if settings.trusted_proxies or settings.allowed_origins else gate,
        fast_path=fast_path,
        acceptor=Acceptor(settings.workers),
    )
    HTTP_PROTOCOLS["auto"] = protocol  # type: ignore[assignment]  # uvicorn takes classes too


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, with limits, and strict about where a request ends.

    llhttp, the parser, rejects most of what proxies and servers understand in different ways; the rest is rejected
    here. An offer to upgrade is ignored (RFC 9110, 7.8), but for the valid handshake of a stream.

    The time for idle connections runs from the start of the connection and after each answer until the next head is
    complete, so that requests whose head comes in one piece pay for nothing else. One timer looks at it, late at worst:
    to start and stop one for each request would take longer than to parse the request.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop | None = None,
        *,
        timeout: float,
        keep_alive: float,
        hosts: AllowedHosts,
        limit: ConnectionLimit,
        gate: Gate | None = None,
        fast_path: FastPath | None = None,
        acceptor: Acceptor | None = None,
    ) -> None:
        """Args:
        config, server_state, app_state, _loop: uvicorn's.
        timeout: seconds that a head may take to arrive, and a client may not read.
        keep_alive: seconds that a connection may be idle after an answer.
        hosts: that requests may be for.
        limit: of connections, shared by all of this process.
        gate: refuses requests by their heads; None leaves that to the application.
        fast_path: answers plain requests; None leaves them to the application, too.
        acceptor: takes connections that wait; None leaves them to the event loop.
        """
        super().__init__(config, server_state, app_state, _loop)
        self.timeout_keep_alive: float = keep_alive  # type: ignore[assignment]  # uvicorn says int
        self.ws_protocol_class = None
        if not config.forwarded_allow_ips and isinstance(self.app, ProxyHeadersMiddleware):
            self.app = self.app.app  # which trusts nobody, so it would do nothing
        self._proxies = self.app.trusted_hosts if isinstance(self.app, ProxyHeadersMiddleware) else None
        self._timeout = timeout
        self._hosts = hosts
        self._limit = limit
        self._acceptor = acceptor
        self._gate = gate
        logs_all = self.access_log and self.access_logger.isEnabledFor(logging.INFO)
        self._fast_path = None if logs_all or self.limit_concurrency or self.root_path else fast_path
        self._plain: bytes | None = None  # the body so far of a request that may be for the fast path
        self._direct: DirectRequest | None = None  # the last one that was
        self._turned_away = False  # the present request, of which the rest is ignored
        self._pending = 0  # bytes since the parser last completed a head, a piece of a body or a request
        self._framing: dict[bytes, bytes] = {}  # of the present head
        self._in_head = False
        self._head_timed = False
        self._refused = False
        self._unread: TimerHandle | None = None
        self._due = math.inf  # when the connection is given up, on the loop's clock,
        self._timer: TimerHandle | None = None  # which looks whether it is

    @property
    def address(self) -> str:
        """Of the client, or of the proxy next to the service."""
        return self.client[0] if self.client else ""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head."""
        super().connection_made(transport)
        self._time(self._timeout)
        self._limit.opened(self)
        if self._acceptor and self.server and self.server[1]:
            self._acceptor.take(self._another, self.config.ssl if self.config.is_ssl else None, self.server[1])

    def _another(self) -> HttpToolsProtocol:
        """What speaks on another connection, as uvicorn makes it."""
        made = self.config.http_protocol_class(  # type: ignore[call-arg]  # of the class that it is
            config=self.config, server_state=self.server_state, app_state=self.app_state
        )
        return cast("HttpToolsProtocol", made)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers, and give up what is under way."""
        self._unset_keepalive_if_required()
        if self._timer:
            self._timer.cancel()
        self._stop_waiting_for_reader()
        self._limit.closed(self)
        if self._direct:
            self._direct.lost()
        if self._plain is not None:
            self._leave_to_application()  # which counts it
        super().connection_lost(exc)
        self._direct = self.cycle = None  # type: ignore[assignment]  # uvicorn leaves it to the garbage collection

    def shutdown(self) -> None:
        """End the connection as the server stops; a request that has not begun or is not here yet has a moment left."""
        if self._plain is not None:
            self._leave_to_application()
        if self.cycle is None or self._in_head:
            self.loop.call_later(_LAST_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Parse the next bytes."""
        if self._refused:
            return
        self._pending += len(data)
        try:
            offer = self._feed(data)
            if offer is not None:
                self._pass_over(data, offer)
        except httptools.HttpParserError as error:
            fault = error.__context__ or error  # raised by a callback below
            self._refuse(fault if isinstance(fault, RequestError) else MalformedRequestError(f"no HTTP/1.1: {fault}"))
            return
        if self._plain is not None and AWAITED not in self.scope:
            self.scope[AWAITED] = time.perf_counter()  # type: ignore[typeddict-unknown-key]  # ours
            self._time(_BODY_SECONDS)
        if self._pending > MAX_HEAD_BYTES:  # also for trailers and chunk extensions
            self._refuse(_too_large())
        elif self._in_head and not self._head_timed:
            self._time_head()

    def _pass_over(self, data: bytes | memoryview, offer: int | None) -> None:
        """Have a parser take what follows a head that offers an upgrade, and ends at ``offer``.

        The parser takes the body for data of the other protocol, so another one takes the head without the offer.
        """
        while offer is not None:
            data = memoryview(data)[offer:]
            if self._opens_stream():
                self._switch(bytes(data))
                return
            head = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
            head += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does: it is ignored
            self._feed(b"\r\n".join([*head, b"", b""]))
            offer = self._feed(data)

    def _opens_stream(self) -> bool:
        """Whether the head is the handshake of a stream, and no answer is under way."""
        idle = self.cycle is None or self.cycle.response_complete
        return (
            idle
            and self.parser.get_http_version() == "1.1"
            and opens_stream(self.parser.get_method(), self.url, self.headers)
        )

    def _switch(self, early: bytes) -> None:
        """Hand the connection over to the other protocol; ``early`` has come behind the handshake."""
        from eyestate.server import websockets  # noqa: PLC0415  # not loaded where nobody opens a stream

        self._unset_keepalive_if_required()
        self._stop_waiting_for_reader()
        self._limit.busy(self)
        self.connections.discard(self)
        self._pending, self._in_head, self.parser = 0, False, None  # type: ignore[assignment]  # it holds this object
        scope = {
            **self.scope,
            "type": "websocket",
            "scheme": "wss" if self.scheme == "https" else "ws",
            "path": STREAM_PATH,
            "raw_path": STREAM_PATH.encode(),
            "query_string": self.url.partition(b"?")[2],
            "subprotocols": [],
        }
        connection = websockets.WebSocketConnection(
            self.transport, scope, self.app, self.server_state, partial(self._limit.closed, self)
        )
        self.transport.set_protocol(connection)
        connection.start(dict(self.headers)[b"sec-websocket-key"], early)

    def _feed(self, data: bytes | memoryview) -> int | None:
        """Have the parser take data, up to where the head of an upgrade ends, which is returned."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            end: int = offer.args[0]
            return end
        return None

    def on_message_begin(self) -> None:
        """The first byte of a head has arrived."""
        super().on_message_begin()
        self._framing.clear()
        self._in_head = True
        self._turned_away = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header is complete, or a trailer, which is ignored.

        Raises:
            MalformedRequestError: it is ambiguous.
            HostNotAllowedError: it names a host that this service is not.
            HeadTooLargeError: there are very many.
        """
        name = name.lower()
        if not self._in_head:
            if name in _NO_TRAILERS:
                raise MalformedRequestError(f"{name.decode()} is no trailer")
            return
        if name in _FRAMING:
            if name in self._framing:
                raise MalformedRequestError(f"there is more than one {name.decode()}")
            self._framing[name] = value
            if name == b"host":
                self._hosts.check(value)
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        if len(self.headers) == MAX_HEADERS:
            raise HeadTooLargeError(f"the request has more than {MAX_HEADERS} headers")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """A head is complete.

        Raises:
            HeadTooLargeError: it is over the limit.
            MalformedRequestError: it is ambiguous, or too many requests wait on this connection already.
        """
        if len(self.pipeline) >= MAX_PIPELINED:
            raise MalformedRequestError(f"over {MAX_PIPELINED} requests came before the answer to the first of them")
        if self._pending > MAX_HEAD_BYTES:  # may include bytes of the body in the same piece
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                raise _too_large()
        method, version = self.parser.get_method(), self.parser.get_http_version()
        self._check_head(method, version)
        if self.parser.should_upgrade():
            return  # it comes again, without the offer
        self._pending = 0
        self._in_head = self._head_timed = False
        self._unset_keepalive_if_required()
        self._limit.busy(self)
        if method == b"POST" and version == "1.1" and self._is_plain():
            self._plain = b""
        else:
            self._begin()

    def _begin(self) -> bool:
        """Have the application begin with a request; False if it is turned away."""
        gate = self._gate
        if gate and (why := gate.expect(self.address)) and self._turn_away(why, gate):
            return False
        super().on_headers_complete()
        if self.expect_100_continue:
            self.cycle.keep_alive = False  # until the body has come: who is answered before need not send it
        return True

    def _is_plain(self) -> bool:
        """Whether the fast path may answer the request, by its head."""
        return (
            self._fast_path is not None
            and self.url == PATH
            and int(self._framing.get(b"content-length", b"0")) in range(1, MAX_BYTES + 1)
            and self.parser.should_keep_alive()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _answer_directly(self, body: bytes) -> bool:
        """Have a request that looks plain answered on the fast path, or refused; False if it is none for it."""
        fast_path, gate = self._fast_path, self._gate
        assert fast_path is not None
        if gate and (why := gate.full(self.address)) and self._turn_away(why, gate):
            return True
        if AWAITED in self.scope:
            self._unset_keepalive_if_required()
        self.scope["method"] = "POST"
        if self._proxies is not None and self.address in self._proxies:
            self.scope["client"] = self._forwarded_for(self._proxies) or self.client
        before = self.cycle
        request = self._direct = DirectRequest(fast_path, cast("Scope", self.scope), self)
        self.cycle = request  # type: ignore[assignment]  # uvicorn asks no more of it
        if fast_path.begin(request, body):
            return True
        self.cycle, self._direct = before, None
        return False

    def _forwarded_for(self, proxies: _TrustedHosts) -> tuple[str, int] | None:
        """The client by what trusted proxies say, as uvicorn's middleware has it; None where they say nothing."""
        values = [value for name, value in self.headers if name == b"x-forwarded-for"]
        host, port = proxies.get_trusted_client_address(b", ".join(values).decode("latin-1"))
        return (host, port) if host else None

    def _leave_to_application(self) -> bool:
        """Go on with a request that looked plain like with any other; False if it is turned away."""
        body, self._plain = self._plain, None
        self._unset_keepalive_if_required()
        if not self._begin():
            return False
        if body:
            self.on_body(body)
        return True

    def _check_head(self, method: bytes, version: str) -> None:
        if version not in _VERSIONS:
            raise MalformedRequestError(f"this is HTTP/{version}; send HTTP/1.1")
        if version == "1.1" and b"host" not in self._framing:
            raise MalformedRequestError("the request has no Host")
        coding = self._framing.get(b"transfer-encoding")
        if coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
            raise MalformedRequestError("the transfer encoding has to be chunked, in HTTP/1.1")
        if method == b"CONNECT":
            raise MalformedRequestError("this is no proxy")
        if not self.url.startswith(b"/"):
            if not httptools.parse_url(self.url).path:
                raise MalformedRequestError("the target of the request has no path")
            if authority := self.url.partition(b"://")[2].partition(b"/")[0]:  # counts, not Host (RFC 9112, 3.2.2)
                self._hosts.check(authority)

    def _turn_away(self, why: str, gate: Gate) -> bool:
        """Refuse the request for which there is no place, if nothing else has to be done; whether that was so."""
        method = self.parser.get_method()
        if (
            self.expect_100_continue
            or self.transport.is_closing()
            or self.flow.write_paused
            or method == b"HEAD"
            or b"%" in self.url
            or not self.parser.should_keep_alive()
            or not (self.cycle is None or self.cycle.response_complete)
        ):
            return False
        path = self.root_path + httptools.parse_url(self.url).path.decode("ascii")
        answer = gate.refusal({"method": method.decode(), "path": path, "headers": self.headers}, why)
        if answer is None:
            return False
        self._turned_away = True
        self.transport.write(answer)
        self.server_state.total_requests += 1
        self._limit.idle(self)
        self._time(self.timeout_keep_alive)
        return True

    def on_body(self, body: bytes) -> None:
        """A piece of a body has arrived."""
        self._pending = 0
        if self._turned_away:
            return
        if self._plain is None:
            super().on_body(body)
        else:
            self._plain += body

    def on_message_complete(self) -> None:
        """A request is complete."""
        if self._in_head:
            return  # of the head that offers an upgrade
        self._pending = 0
        if self._turned_away:
            return
        if self._plain is not None:
            if self._answer_directly(self._plain):
                self._plain = None
                return
            if not self._leave_to_application():
                return
        if self.expect_100_continue and not self.cycle.response_started:
            self.cycle.keep_alive = self.scope["http_version"] == "1.1" and self.parser.should_keep_alive()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is complete: the connection is idle, unless another request or head has begun to arrive.

        As uvicorn has it, which starts a timer after each answer, and stops it at the next request.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._time(self.timeout_keep_alive)
        if self.cycle.response_complete:
            self._limit.idle(self)
        if self._in_head:
            self._time_head()

    def give_way(self) -> None:
        """Close the connection, which is idle, for another."""
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection: nothing or no complete head arrived in time; a body may still come."""
        if self._plain is not None:
            self._leave_to_application()
        elif self._in_head:
            self._refuse(RequestTimeoutError(f"the head was not complete within {self._timeout:g} s"))
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read its response: abort after the timeout, since closing would wait for it."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._stop_waiting_for_reader()
        super().resume_writing()

    def _time_head(self) -> None:
        self._head_timed = True
        self._unset_keepalive_if_required()
        self._time(self._timeout)

    def _time(self, seconds: float) -> None:
        """Give the connection up after that time, unless that is taken back."""
        self._due = self.loop.time() + seconds
        if self._timer and self._timer.when() > self._due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self.loop.call_at(self._due, self._look_at_time)

    def _unset_keepalive_if_required(self) -> None:
        """Take it back."""
        self._due = math.inf

    def _look_at_time(self) -> None:
        self._timer = None
        if self._due <= self.loop.time():
            self.timeout_keep_alive_handler()
        elif self._due < math.inf:
            self._timer = self.loop.call_at(self._due, self._look_at_time)

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
            self.loop.call_later(_LINGER_SECONDS, self.transport.abort)
        else:
            self.transport.close()


def _too_large() -> HeadTooLargeError:
    return HeadTooLargeError(f"the head of the request is over the limit of {MAX_HEAD_BYTES:,} bytes")
