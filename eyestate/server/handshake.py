"""Which offers of an upgrade open a stream: everything else of such a head is a request like any other."""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import Final

PATH: Final = "/v1/stream"
_VERSION: Final = b"13"  # of RFC 6455
_KEY_BYTES: Final = 16
_BODY: Final = frozenset({b"content-length", b"transfer-encoding"})


def opens_stream(method: bytes, url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a head of HTTP/1.1 is a valid handshake (RFC 6455, 4.2.1) for a stream.

    Args:
        method: of the request.
        url: its target, as it was sent.
        headers: names in lower case, and values.
    """
    if method != b"GET" or url.partition(b"?")[0] != PATH.encode():
        return False
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    return (
        _BODY.isdisjoint(values)
        and [value.lower() for value in values.get(b"upgrade", [])] == [b"websocket"]
        and values.get(b"sec-websocket-version") == [_VERSION]
        and _is_key(values.get(b"sec-websocket-key", []))
    )


def _is_key(values: list[bytes]) -> bool:
    try:
        return len(values) == 1 and len(binascii.a2b_base64(values[0], strict_mode=True)) == _KEY_BYTES
    except binascii.Error:
        return False
