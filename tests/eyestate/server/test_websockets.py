"""What waits for the application: limits, and frames that give way to newer ones."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from eyestate.errors import OverloadedError
from eyestate.server import websockets
from eyestate.server.websockets import MAX_RATE, MAX_WAITING, TRY_LATER, VIOLATION, Ending, Inbox


def put(inbox: Inbox, *names: str, at: float = 10.0) -> None:
    """Frames named by one letter, other messages by more."""
    for name in names:
        content: dict[str, Any] = {"bytes": name.encode()} if len(name) == 1 else {"text": name}
        ticket: dict[str, Any] = {}
        websockets._budget.take(ticket, len(name))
        inbox.put({"type": "websocket.receive", **content, "at": at}, ticket)


def drained(inbox: Inbox) -> list[str]:
    async def read() -> list[str]:
        found = []
        inbox.end(Ending(1000))
        while not isinstance(message := await inbox.get(), Ending):
            found.append(message.get("text") or message["bytes"].decode())
        return found

    return asyncio.run(read())


def test_messages_come_in_order() -> None:
    inbox = Inbox()
    put(inbox, "text", "a", "b")
    assert drained(inbox) == ["text", "a", "b"]
    assert websockets._budget.held == 0


def test_the_newest_frame_wins_where_that_is_asked_for() -> None:
    inbox = Inbox(newest=True)
    put(inbox, "one", "a", "two", "b", "three", "c")
    assert inbox.dropped == 2
    assert drained(inbox) == ["one", "two", "three", "c"]
    assert websockets._budget.held == 0


def test_otherwise_too_many_end_the_stream_after_those_that_wait() -> None:
    inbox = Inbox()
    put(inbox, *"x" * (MAX_WAITING + 3))
    assert inbox.ending
    assert inbox.ending.code == TRY_LATER
    assert isinstance(inbox.ending.error, OverloadedError)
    assert len(drained(inbox)) == MAX_WAITING
    assert websockets._budget.held == 0


def test_messages_that_are_no_frames_are_limited_too() -> None:
    inbox = Inbox(newest=True)
    put(inbox, *["text"] * 300)
    assert inbox.ending
    assert inbox.ending.code == VIOLATION
    inbox.end(Ending(1000), discard=True)
    assert websockets._budget.held == 0


@pytest.mark.parametrize("newest", [True, False])
def test_frames_come_at_a_limited_rate(newest: bool) -> None:
    """Twice as many as in a second may come at once; a clock that gives one a second later takes a second's worth."""
    inbox = Inbox(newest=newest)
    for frame in range(int(4 * MAX_RATE)):
        put(inbox, "x", at=frame / MAX_RATE)
        inbox._pop()
    assert (inbox.ending, inbox.dropped) == (None, 0)
    for frame in range(int(4 * MAX_RATE)):
        put(inbox, "x", at=10 + frame / MAX_RATE / 4)
        if inbox._waiting:
            inbox._pop()
    if newest:
        assert inbox.dropped == pytest.approx(MAX_RATE, abs=2)
    else:
        assert inbox.ending
        assert inbox.ending.code == VIOLATION


class Hanging(asyncio.Transport):
    """The transport of a client that does nothing."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write(self, data: object) -> None: ...


def test_a_client_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websockets, "UNREAD_SECONDS", 0.01)

    async def wait(*, reads: bool) -> bool:
        async def app(*_: object) -> None: ...

        transport = Hanging()
        connection = websockets.WebSocketConnection(transport, {}, app, ServerState(), lambda: None)
        connection.pause_writing()
        if reads:
            connection.resume_writing()
        await asyncio.sleep(0.05)
        connection.connection_lost(None)
        return transport.aborted

    assert asyncio.run(wait(reads=False))
    assert not asyncio.run(wait(reads=True))


@given(st.lists(st.sampled_from(["a", "b", "text", ""])), st.booleans())
def test_nothing_stays_charged(steps: list[str], newest: bool) -> None:
    inbox = Inbox(newest=newest)
    for step in steps:
        if step:
            put(inbox, step)
        elif inbox._waiting:
            inbox._pop()
    inbox.end(Ending(1001), discard=True)
    put(inbox, "a")
    assert websockets._budget.held == 0


def frame(head: int, content: bytes = b"") -> bytes:
    return bytes([head, 0x80 | len(content)]) + bytes(4) + content


@pytest.mark.parametrize(
    ("first", "repeated"),
    [
        (frame(0x02), frame(0x00)),
        (frame(0x01, b"x"), frame(0x00, b"x")),
        (b"", frame(0x89, b"ping")),
        (b"", frame(0x8A)),
        (b"", frame(0x82)),
    ],
    ids=["empty fragments", "fragments of a byte", "pings", "pongs", "empty frames"],
)
@pytest.mark.parametrize("newest", [False, True])
def test_a_flood_of_small_frames_ends_the_stream(first: bytes, repeated: bytes, newest: bool) -> None:
    """Each is read in 15 us, while nothing else runs: 1.2 MB of empty fragments were 3 s."""

    async def ending(frames: int) -> Ending | None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope[websockets.INBOX].newest = newest
            await receive()
            await send({"type": "websocket.accept"})
            while (await receive())["type"] != "websocket.disconnect":
                pass

        scope: dict[str, Any] = {}
        connection = websockets.WebSocketConnection(Hanging(), scope, app, ServerState(), lambda: None)
        connection.start(base64.b64encode(bytes(16)), b"")
        await asyncio.sleep(0.01)
        for _ in range(2):
            connection.data_received(first + repeated * (frames // 2))
            first_ending: Ending | None = scope[websockets.INBOX].ending
        connection.connection_lost(None)
        return first_ending

    ended = asyncio.run(ending(20_000))
    assert ended
    assert ended.code in (VIOLATION, TRY_LATER)
    if not first and repeated != frame(0x82):
        assert asyncio.run(ending(200)) is None
