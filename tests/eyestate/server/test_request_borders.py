"""Where requests begin and end: as h11, a strict parser, has it, however they are cut into segments."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import h11
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from eyestate.server.connection_limit import ConnectionLimit
from eyestate.server.connections import Connection
from eyestate.server.hosts import AllowedHosts

EXPECT = b"Expect: 100-continue\r\n"
OFFERS = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n",
    b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: eA==\r\n",
    b"Connection: upgrade\r\nUpgrade: TLS/1.2\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c, TLS/1.2\r\nUpgrade: websocket\r\n" + EXPECT,
    b"Proxy-Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"Upgrade: h2c\r\n",
    b"Connection: upgrade\r\n",
]
_TURNS = 40
NESTED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"


class Seen(NamedTuple):
    """A request; the body is None where it was answered before its body was read."""

    method: bytes
    target: bytes
    body: bytes | None


class Wire(asyncio.Transport):
    """What a connection writes, and whether it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closing:
            self.written += data

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Outcome(NamedTuple):
    requests: list[Seen]
    statuses: list[int]
    closed: bool


class Gate:
    """Answers ``/early`` where it can: at the head, before there is a request."""

    def __init__(self, seen: list[Seen]) -> None:
        self._seen = seen

    def expect(self, client: str) -> str:
        return "no place"

    def full(self, client: str) -> str:
        return "no place"

    def refusal(self, scope: Scope, why: str) -> bytes | None:
        if scope["path"] != "/early":
            return None
        self._seen.append(Seen(scope["method"].encode(), b"/early", None))
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    def end_slowest_upload(self) -> bool:
        return False


async def serve(segments: Sequence[bytes], waits: random.Random | None, gated: bool) -> Outcome:
    """What a connection makes of the segments, which come at once or, with ``waits``, now and then."""
    seen: list[Seen] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = None if scope["path"] == "/early" else await request.body()
        except ClientDisconnect:
            return
        seen.append(Seen(scope["method"].encode(), scope["raw_path"], body))
        await PlainTextResponse(b"")(scope, receive, send)

    wire = Wire()
    config = uvicorn.Config(application, log_config=None, lifespan="off")
    connection = Connection(
        config,
        ServerState(),
        {},
        timeout=60,
        keep_alive=60,
        hosts=AllowedHosts((), enforced=True),
        limit=ConnectionLimit(lambda: False),
        gate=Gate(seen) if gated else None,
    )
    connection.connection_made(wire)
    for segment in segments:
        while not wire.closing and (not wire.reading or (waits and waits.random() < 0.5)):
            await asyncio.sleep(0)
        if wire.closing:
            break
        connection.data_received(segment)
    for _ in range(_TURNS):  # of the loop: what is still to be answered after them waits for the rest of a body
        await asyncio.sleep(0)
    outcome = Outcome(seen, statuses(wire.written), wire.closing)
    connection.connection_lost(None)
    await asyncio.gather(*connection.tasks, return_exceptions=True)
    return outcome


def statuses(written: bytes) -> list[int]:
    """Of the final answers."""
    client = h11.Connection(h11.CLIENT)
    found = []
    client.receive_data(written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))
    while client.trailing_data[0]:
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            assert isinstance(event, h11.Response | h11.Data), event
            if isinstance(event, h11.Response):
                found.append(event.status_code)
        if client.our_state is h11.MUST_CLOSE or client.their_state is not h11.DONE:
            break
        client.start_next_cycle()
    return found


def reference(data: bytes) -> tuple[list[Seen], bool]:
    """The requests that h11 finds, and whether all of the data is requests.

    It is stricter than RFC 9112, which has empty lines before a request ignored (2.2), and allows for several spaces
    between the parts of its first line (3).
    """
    found: list[Seen] = []
    while data := data.lstrip(b"\r\n"):
        line, border, rest = data.partition(b"\r\n")
        server = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
        server.receive_data(re.sub(b" +", b" ", line) + border + rest)
        try:
            head, body = server.next_event(), b""
            if not isinstance(head, h11.Request):
                return found, True  # the rest is still to come
            if head.target == b"/early":
                found.append(Seen(head.method, head.target, None))
            while not isinstance(event := server.next_event(), h11.EndOfMessage):
                if not isinstance(event, h11.Data):
                    return found, True
                body += event.data
        except h11.RemoteProtocolError:
            return found, False
        if head.target != b"/early":
            found.append(Seen(head.method, head.target, body))
        server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
        server.send(h11.EndOfMessage())
        if server.our_state is h11.MUST_CLOSE:
            break
        data = server.trailing_data[0]
    return found, True


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The data in segments that end at the places, as far as they are within it."""
    borders = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(borders)]


def with_length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def chunked(body: bytes, size: int, extension: bytes, trailer: bytes) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%X%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"


bodies = st.sampled_from([b"", NESTED, b"0\r\n\r\n" + NESTED, b"\r\n" * 3]) | st.binary(max_size=60)
framed = st.builds(with_length, bodies) | st.builds(
    chunked,
    bodies,
    st.integers(1, 40),
    st.sampled_from([b"", b";a=b", b';a="b c"', b";a"]),
    st.sampled_from([b"", b"X: y\r\n"]),
)
sound = st.builds(
    lambda method, path, offer, rest: b"%b %b HTTP/1.1\r\nHost: x\r\n%b%b" % (method, path, offer, rest),
    st.sampled_from([b"POST", b"GET", b"PUT", b"OPTIONS"]),
    st.sampled_from([b"/echo", b"/early"]),
    st.sampled_from([b"", *OFFERS, b"Connection: keep-alive\r\n", b"Connection: close\r\n", EXPECT]),
    framed | st.just(b"\r\n"),
).filter(
    lambda request: not (b" /early " in request and EXPECT in request)
)  # it is closed, since the body may not come
PIECES = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b";", b"\0", b"\x0b", b",", b"0", b"5", b"+", b"-", b"0x", b"_"),
    *(b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: y\r\n"),
    *(b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Connection: close\r\n"),
    *(b"Content-Length : 5\r\n", b" folded\r\n", b"HTTP/1.0", b"HTTP/2.0", b"CONNECT ", b"Upgrade: h2c\r\n", NESTED),
]


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """Requests with pieces put in, cut out or replaced."""
    data = bytearray(b"".join(draw(st.lists(sound, min_size=1, max_size=3))))
    for _ in range(draw(st.integers(1, 3))):
        ends = [place for place in range(len(data)) if data[place : place + 2] == b"\r\n"] or [0]
        at = draw(
            st.integers(0, len(data)) | st.sampled_from(ends).map(lambda place: place + 2) | st.sampled_from(ends)
        )
        data[at : at + draw(st.integers(0, 3))] = draw(st.sampled_from(PIECES) | st.binary(max_size=2))
    return bytes(data)


cuts = st.lists(st.integers(0, 2_000), max_size=6) | st.sampled_from([range(0, 2_000, 7), range(2_000)])
waits = st.none() | st.randoms(use_true_random=False)


@given(st.lists(sound, min_size=1, max_size=5).map(b"".join), cuts, waits, st.booleans())
def test_sound_requests_are_answered_once_each(
    data: bytes, places: Sequence[int], waits: random.Random | None, gated: bool
) -> None:
    expected, whole = reference(data)
    assert whole
    outcome = asyncio.run(serve(cut(data, places), waits, gated))
    assert outcome.requests == expected
    assert outcome.statuses == [200] * len(expected)


@given(hostile(), cuts, waits, st.booleans())
def test_of_hostile_requests_none_is_seen_that_a_strict_parser_does_not_see(
    data: bytes, places: Sequence[int], waits: random.Random | None, gated: bool
) -> None:
    expected, _ = reference(data)
    outcome = asyncio.run(serve(cut(data, places), waits, gated))
    assert outcome.requests == expected[: len(outcome.requests)]
    refused = [status for status in outcome.statuses if status != 200]
    assert refused in ([], [400])
    assert outcome.statuses == [200] * (len(outcome.statuses) - len(refused)) + refused
