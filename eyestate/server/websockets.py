"""WebSocket connections (RFC 6455) as an ASGI server has them; wsproto speaks the protocol.

A connection arrives here from ``Connection`` once its handshake has been read, so nothing of this is loaded, or costs
anything, where nobody opens a stream. What the client sends waits in an ``Inbox``, which is the one place where frames
are dropped and limits are enforced.
"""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import TimerHandle, Transport
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from starlette.types import ASGIApp, Message, Scope
from uvicorn.server import ServerState
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError

from eyestate.errors import EyestateError, OverloadedError, RequestError
from eyestate.server.uploads import BodyBudget

log = logging.getLogger("eyestate.server.websockets")

INBOX: Final = "eyestate.inbox"  # in a connection's scope: its ``Inbox``
MAX_MESSAGE_BYTES: Final = 2 * 2**20
MAX_WAITING: Final = 16  # frames of a connection
MAX_RATE: Final = 120.0  # frames a second
IDLE_SECONDS: Final = 300.0  # without a message, after which a connection is closed
PING_SECONDS: Final = 20.0
UNREAD_SECONDS: Final = 60.0  # that a client may leave its answers unread
_MAX_TEXTS: Final = 256  # that wait
_HELD_BYTES: Final = 128 * 2**20  # of what waits, and of messages on their way, of all connections together
_SMALL_BYTES: Final = 256
_MAX_SMALL: Final = 6_000  # frames of the protocol with less than that, from one ping to the next: they cost 15 us each
_PIECE_BYTES: Final = 4_096  # parsed at a time, since nothing that has been parsed can be left unread
_MISSED: Final = 3  # pings without an answer
_LAST_SECONDS: Final = 5.0  # for the last answers when the server stops
_LINGER_SECONDS: Final = 1.0  # for the client to close when we have

_HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
)

NORMAL, GOING_AWAY, VIOLATION, TOO_BIG, FAILED, TRY_LATER = 1000, 1001, 1008, 1009, 1011, 1013

_budget: Final = BodyBudget(_HELD_BYTES)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a connection gets no more messages: the code to close it with, and the error to tell before; None is none."""

    code: int
    error: EyestateError | None = None


@dataclass(slots=True)
class Inbox:
    """The messages of a connection that wait for the application.

    Attributes:
        newest: whether a frame takes the place of one that waits, rather than a place behind it.
        dropped: frames that were left out for newer ones.
        ending: what is told after the last message.
    """

    newest: bool = False
    dropped: int = 0
    ending: Ending | None = None
    _waiting: deque[Message] = field(default_factory=deque)
    _tickets: deque[Scope] = field(default_factory=deque)
    _frames: int = 0
    _allowed: float = 2 * MAX_RATE
    _counted: float = 0.0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, message: Message, ticket: Scope) -> None:
        """Add a message, whose bytes the ticket has been charged with."""
        if self.ending:
            _budget.release(ticket)
            return
        if "bytes" in message and not self._has_room(message["at"]):
            _budget.release(ticket)
            return
        if len(self._waiting) == MAX_WAITING + _MAX_TEXTS:
            self.end(Ending(VIOLATION, RequestError("too many text messages are waiting")))
        self._waiting.append(message)
        self._tickets.append(ticket)
        self._changed.set()

    def end(self, ending: Ending, *, discard: bool = False) -> None:
        """Take no more messages; ``discard`` forgets those that wait."""
        self.ending = self.ending or ending
        while discard and self._waiting:
            self._pop()
        self._changed.set()

    async def get(self) -> Message | Ending:
        """The next message, or why there is none."""
        while not self._waiting and not self.ending:
            self._changed.clear()
            await self._changed.wait()
        if self._waiting:
            return self._pop()
        assert self.ending
        return self.ending

    def _pop(self) -> Message:
        message = self._waiting.popleft()
        _budget.release(self._tickets.popleft())
        self._frames -= "bytes" in message
        return message

    def _has_room(self, now: float) -> bool:
        """Whether another frame may wait; makes room for it, or ends, where not."""
        self._allowed = min(2 * MAX_RATE, self._allowed + (now - self._counted) * MAX_RATE)
        self._counted = now
        if self._allowed < 1:
            if self.newest:
                self.dropped += 1
            else:
                self.end(Ending(VIOLATION, RequestError(f"there are more than {MAX_RATE:g} frames a second")))
            return False
        self._allowed -= 1
        if self.newest and self._frames:
            self._drop_oldest_frame()
        elif self._frames == MAX_WAITING:
            error = OverloadedError(f"{MAX_WAITING} frames are waiting already; send fewer, or ask for newest=true", 1)
            self.end(Ending(TRY_LATER, error))
            return False
        self._frames += 1
        return True

    def _drop_oldest_frame(self) -> None:
        place = next(place for place, message in enumerate(self._waiting) if "bytes" in message)
        del self._waiting[place]
        _budget.release(self._tickets[place])
        del self._tickets[place]
        self._frames -= 1
        self.dropped += 1


class WebSocketConnection(asyncio.Protocol):
    """One connection from its handshake to its end."""

    def __init__(
        self, transport: Transport, scope: Scope, app: ASGIApp, state: ServerState, on_lost: Callable[[], None]
    ) -> None:
        """Args:
        transport: of the connection, whose handshake has been read.
        scope: of ASGI.
        app: serves it.
        state: uvicorn's, which waits for connections and tasks when it stops.
        on_lost: is called when the connection is.
        """
        self._transport = transport
        self._state = state
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._ws = WSConnection(ConnectionType.SERVER)
        self._inbox = scope[INBOX] = Inbox()
        self._early = b""  # what came behind the handshake, before it was accepted
        self._partial = bytearray()
        self._small = 0
        self._ticket: Scope = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self._unread: TimerHandle | None = None
        self._accepted = False
        self._heard = self._messaged = self._loop.time()
        self._beat = self._loop.call_later(PING_SECONDS, self._on_beat)
        state.connections.add(self)  # type: ignore[arg-type]  # it has their ``shutdown``
        self._scope, self._app = scope, app

    def start(self, key: bytes, early: bytes) -> None:
        """Serve the connection.

        Args:
            key: ``Sec-WebSocket-Key`` of its handshake, which is valid.
            early: what has come behind the handshake.
        """
        self._early = early
        self._ws.receive_data(_HANDSHAKE % key)
        next(self._ws.events())
        self._transport.pause_reading()
        task = self._loop.create_task(self._run())
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception:
            log.exception("the stream failed")
            self._close(FAILED, "the service failed; its log says why")
        else:
            self._close(NORMAL)

    # What the client does

    def data_received(self, data: bytes) -> None:
        """Parse the next bytes."""
        self._heard = self._loop.time()
        for start in range(0, len(data), _PIECE_BYTES):
            if self._small > _MAX_SMALL:
                return
            try:
                self._ws.receive_data(data[start : start + _PIECE_BYTES])
            except LocalProtocolError:  # behind the end
                return
            for event in self._ws.events():
                self._handle(event)
            if self._small > _MAX_SMALL:
                self._inbox.end(Ending(VIOLATION, RequestError("there are very many small frames")))

    def _handle(self, event: Event) -> None:
        self._small += len(getattr(event, "data", b"") or getattr(event, "payload", b"")) < _SMALL_BYTES
        if isinstance(event, (BytesMessage, TextMessage)):
            self._take(event)
        elif isinstance(event, Ping):
            if self._writable.is_set():  # who pings without reading gets no more answers
                self._write(event.response())
        elif isinstance(event, CloseConnection):  # by the client, or because its bytes violate the protocol
            self._inbox.end(Ending(event.code), discard=True)
            self._write(CloseConnection(event.code, event.reason))
            self._transport.pause_reading()
            self._linger()

    def _take(self, event: BytesMessage | TextMessage) -> None:
        """A message or a piece of one."""
        if self._inbox.ending:
            return
        data = event.data if isinstance(event, BytesMessage) else event.data.encode()
        if len(self._partial) + len(data) > MAX_MESSAGE_BYTES:
            error = RequestError(f"a message is over the limit of {MAX_MESSAGE_BYTES:,} bytes")
            self._inbox.end(Ending(TOO_BIG, error))
            return
        try:
            _budget.take(self._ticket, len(data))
        except OverloadedError as error:
            self._inbox.end(Ending(TRY_LATER, error))
            return
        self._partial += data
        if event.message_finished:
            self._messaged = self._heard
            kind = "bytes" if isinstance(event, BytesMessage) else "text"
            content = bytes(self._partial) if kind == "bytes" else self._partial.decode()
            ticket, self._ticket = self._ticket, {}
            self._partial.clear()
            self._inbox.put({"type": "websocket.receive", kind: content, "at": time.monotonic()}, ticket)

    def pause_writing(self) -> None:
        """The client does not read its answers: abort after a while, since closing would wait for it."""
        self._writable.clear()
        self._unread = self._loop.call_later(UNREAD_SECONDS, self._transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        self._stop_waiting_for_reader()
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's
        """Stop all that belongs to it."""
        self._beat.cancel()
        self._stop_waiting_for_reader()
        self._inbox.end(Ending(GOING_AWAY), discard=True)
        _budget.release(self._ticket)
        self._writable.set()
        self._state.connections.discard(self)
        self._on_lost()

    # What the server does

    def shutdown(self) -> None:
        """End the connection as the server stops, after the answers to what has come."""
        self._inbox.end(Ending(GOING_AWAY))
        self._loop.call_later(_LAST_SECONDS, self._transport.abort)

    def _on_beat(self) -> None:
        now = self._loop.time()
        self._small = 0 if self._small <= _MAX_SMALL else self._small
        if now - self._heard > _MISSED * PING_SECONDS:
            self._transport.abort()
            return
        if now - self._messaged > IDLE_SECONDS:
            self._inbox.end(Ending(NORMAL, RequestError(f"there was no message for {IDLE_SECONDS:g} s")))
        elif self._accepted:
            self._write(Ping())
        self._beat = self._loop.call_later(PING_SECONDS, self._on_beat)

    def _stop_waiting_for_reader(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    async def _receive(self) -> Message:
        if not self._accepted:
            return {"type": "websocket.connect"}
        message = await self._inbox.get()
        if isinstance(message, Ending):
            return {"type": "websocket.disconnect", "code": message.code, "ending": message}
        return message

    async def _send(self, message: Message) -> None:
        await self._writable.wait()
        kind = message["type"]
        if kind == "websocket.accept":
            self._write(AcceptConnection(extra_headers=message.get("headers", [])))
            self._accepted = True
            self._transport.resume_reading()
            if self._early:
                self.data_received(self._early)
                self._early = b""
        elif kind == "websocket.send":
            self._write(TextMessage(message["text"]))
        elif kind == "websocket.close":
            self._close(message.get("code", NORMAL), message.get("reason", ""))
        elif kind == "websocket.http.response.start":
            self._write(RejectConnection(status_code=message["status"], headers=message["headers"], has_body=True))
        elif kind == "websocket.http.response.body":
            self._write(RejectData(message["body"]))
            self._transport.close()

    def _close(self, code: int, reason: str = "") -> None:
        if self._ws.state is ConnectionState.OPEN:
            self._write(CloseConnection(code, reason))
            self._linger()
        elif not self._transport.is_closing() and self._ws.state is not ConnectionState.LOCAL_CLOSING:
            self._transport.close()

    def _linger(self) -> None:
        """Give the client a moment to close, too."""
        if self._ws.state is ConnectionState.CLOSED:
            self._transport.close()
        else:
            self._loop.call_later(_LINGER_SECONDS, self._transport.close)

    def _write(self, event: Event) -> None:
        if self._transport.is_closing():
            return
        try:
            self._transport.write(self._ws.send(event))
        except LocalProtocolError:  # the client has closed meanwhile
            self._linger()
