"""A client of ``/v1/stream``: wsproto over a blocking socket."""

from __future__ import annotations

import json
import socket
import ssl
from collections import deque
from types import TracebackType
from typing import Any, Self

import httpx
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)


class Stream:
    """A stream that the service has accepted, or rejected: ``status`` tells which."""

    def __init__(self, url: str, query: str = "", headers: dict[str, str] | None = None) -> None:
        address = httpx.URL(url)
        self.socket = socket.create_connection((address.host, address.port), timeout=60)
        if address.scheme == "https":
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.socket = context.wrap_socket(self.socket)
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._events: deque[Event] = deque()
        extra = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        target = f"/v1/stream{query}"
        self.write(Request(host=f"{address.host}:{address.port}", target=target, extra_headers=extra))
        answer = self.event()
        self.status, self.error = 101, ""
        if isinstance(answer, RejectConnection):
            self.status, body = answer.status_code, self.event()
            assert isinstance(body, RejectData)
            self.error = json.loads(body.data)["error"]["code"]
        else:
            assert isinstance(answer, AcceptConnection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    def write(self, event: Event) -> None:
        self.socket.sendall(self._ws.send(event))

    def send(self, *messages: bytes | dict[str, Any] | str) -> None:
        """Frames as bytes, what is said of them as JSON."""
        for message in messages:
            if isinstance(message, bytes):
                self.write(BytesMessage(message))
            else:
                self.write(TextMessage(message if isinstance(message, str) else json.dumps(message)))

    def event(self) -> Event:
        """The next event, pings answered."""
        while True:
            while not self._events:
                self._ws.receive_data(self.socket.recv(65_536) or None)
                self._events.extend(self._ws.events())
            event = self._events.popleft()
            if not isinstance(event, Ping):
                return event
            self.write(event.response())

    def answer(self) -> dict[str, Any]:
        """The next message of the service."""
        event = self.event()
        assert isinstance(event, TextMessage), event
        answer: dict[str, Any] = json.loads(event.data)
        return answer

    def ask(self, *messages: bytes | dict[str, Any] | str) -> dict[str, Any]:
        """The answer to the last of the messages, of which it is the only one that gets any."""
        self.send(*messages)
        return self.answer()

    def close_code(self) -> int:
        """The code that the service closes with, next."""
        event = self.event()
        assert isinstance(event, CloseConnection), event
        return int(event.code)

    def ping(self) -> bytes:
        """What comes back to a ping."""
        self.write(Ping(b"are you there?"))
        event = self.event()
        assert isinstance(event, Pong)
        return bytes(event.payload)
