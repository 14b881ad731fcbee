"""What waits for the application: limits, and frames that give way to newer ones."""

from __future__ import annotations

import asyncio
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
