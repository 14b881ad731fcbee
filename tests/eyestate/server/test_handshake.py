"""What opens a stream, and what is a request like any other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyestate.server.handshake import opens_stream

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455
VALID = {
    b"host": b"x",
    b"connection": b"keep-alive, Upgrade",
    b"upgrade": b"websocket",
    b"sec-websocket-version": b"13",
    b"sec-websocket-key": KEY,
}


def test_a_valid_handshake() -> None:
    for url in (b"/v1/stream", b"/v1/stream?mode=crop"):
        assert opens_stream(b"GET", url, VALID.items())
    assert opens_stream(b"GET", b"/v1/stream", (VALID | {b"upgrade": b"WebSocket"}).items())


@pytest.mark.parametrize(
    "change",
    [
        {b"upgrade": b"h2c"},
        {b"upgrade": b"h2c, websocket"},
        {b"sec-websocket-version": b"8"},
        {b"sec-websocket-key": b"eA=="},
        {b"sec-websocket-key": b"not base64"},
        {b"sec-websocket-key": KEY + b"\r\nx: y"},
        {b"sec-websocket-key": b""},
        {b"content-length": b"0"},
        {b"transfer-encoding": b"chunked"},
    ],
    ids=str,
)
def test_other_offers(change: dict[bytes, bytes]) -> None:
    assert not opens_stream(b"GET", b"/v1/stream", (VALID | change).items())


def test_what_is_missing_or_there_twice() -> None:
    for name in (b"upgrade", b"sec-websocket-version", b"sec-websocket-key"):
        assert not opens_stream(b"GET", b"/v1/stream", [item for item in VALID.items() if item[0] != name])
        assert not opens_stream(b"GET", b"/v1/stream", [*VALID.items(), (name, VALID[name])])


@pytest.mark.parametrize(
    ("method", "url"),
    [(b"POST", b"/v1/stream"), (b"GET", b"/v1/stream/"), (b"GET", b"/v1/score"), (b"GET", b"http://x/v1/stream")],
)
def test_other_routes(method: bytes, url: bytes) -> None:
    assert not opens_stream(method, url, VALID.items())


@given(st.binary(max_size=40))
def test_any_key(key: bytes) -> None:
    opens_stream(b"GET", b"/v1/stream", (VALID | {b"sec-websocket-key": key}).items())
