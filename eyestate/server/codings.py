"""Content codings of request bodies, inflated in steps, so that few bytes cannot fill the memory."""

from __future__ import annotations

import zlib
from typing import Final

from eyestate.errors import BodyTooLargeError, MalformedRequestError, UnsupportedCodingError

ACCEPTED: Final = "gzip, deflate"  # for the header Accept-Encoding
MAX_RATIO: Final = 100  # inflated to compressed bytes; text and crops have 2 to 20, single-coloured crops up to 1,000
FREE_BYTES: Final = 2**20  # inflated, from which on the ratio counts
_STEP_BYTES: Final = 64 * 2**10  # inflated at a time: 0.1 ms
_WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def inflater(header: str) -> Inflater | None:
    """What decodes a body.

    Args:
        header: ``Content-Encoding``, empty where there was none.

    Returns:
        None for a body that is not encoded.

    Raises:
        UnsupportedCodingError: the coding is not known, or there are several.
    """
    codings = [coding for part in header.lower().split(",") if (coding := part.strip()) not in ("", "identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _WINDOW_BITS:
        raise UnsupportedCodingError(f"the content coding is {', '.join(codings)[:100]!r}; send {ACCEPTED} or none")
    return Inflater(codings[0])


class Inflater:
    """Inflates a body as it arrives."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._stream = zlib.decompressobj(_WINDOW_BITS[coding])
        self._compressed = 0
        self._inflated = 0
        self.pending = False  # whether ``step`` has more to give without more bytes

    def step(self, compressed: bytes = b"") -> bytes:
        """The next inflated bytes, at most ``_STEP_BYTES``.

        Args:
            compressed: the next piece of the body; none as long as something is pending.

        Raises:
            MalformedRequestError: the body is not in its coding, or something follows it.
            BodyTooLargeError: it grows out of proportion.
        """
        if self._stream.eof and compressed:
            raise self._malformed("something follows it")
        self._compressed += len(compressed)
        try:
            plain = self._stream.decompress(self._stream.unconsumed_tail + compressed, _STEP_BYTES)
        except zlib.error as error:
            raise self._malformed(str(error)) from None
        if self._stream.unused_data:
            raise self._malformed("something follows it")
        self.pending = not self._stream.eof and (bool(self._stream.unconsumed_tail) or len(plain) == _STEP_BYTES)
        self._inflated += len(plain)
        if self._inflated > max(FREE_BYTES, MAX_RATIO * self._compressed):
            raise BodyTooLargeError(f"the body is compressed to less than 1/{MAX_RATIO}; send it as it is")
        return plain

    def finish(self) -> None:
        """Raise MalformedRequestError unless the body is complete."""
        if not self._stream.eof:
            raise self._malformed("it is cut off")

    def _malformed(self, reason: str) -> MalformedRequestError:
        return MalformedRequestError(f"the body is not one whole {self._coding} stream: {reason}")
