"""WebP (RFC 9649), by Pillow, which gets the chunks that make the first frame and no others."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Final

from PIL import Image

from eyestate.arrays import Pixels
from eyestate.errors import CorruptImageError
from eyestate.images.exif import orientation, upright
from eyestate.images.limits import check_pixels, check_segments
from eyestate.images.pixels import Mode, decoding, flattened

RIFF: Final = b"RIFF"
WEBP: Final = b"WEBP"

_ANIMATION, _ALPHA = 0x02, 0x10  # flags of VP8X


def decode(data: bytes, mode: Mode, max_pixels: int) -> Pixels:
    """The upright pixels of a WebP file, as ``eyestate.images.decode`` describes them; the first frame of an animation.

    Raises:
        ImageError: as there.
    """
    chunks: dict[bytes, bytes] = {}
    for kind, content in _chunks(data):
        chunks.setdefault(kind, content)
    width, height = _sides(chunks)
    check_pixels(width, height, max_pixels)
    file = b"".join(_chunk(kind, content) for kind, content in _needed(chunks).items())
    with decoding(width * height):
        image = Image.open(io.BytesIO(RIFF + struct.pack("<I", 4 + len(file)) + WEBP + file), formats=["WEBP"])
        if image.size != (width, height):
            raise CorruptImageError("the image is damaged: its headers contradict each other")
        return upright(flattened(image, mode), orientation(chunks.get(b"EXIF", b"")))


def sides(data: bytes) -> tuple[int, int]:
    """Width and height by the header.

    Raises:
        ImageError: there is none.
    """
    return _sides(dict(_chunks(data)))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    place, count = 12, 0
    while place + 8 <= end:
        check_segments(count := count + 1)
        kind, length = struct.unpack_from("<4sI", data, place)
        place += 8
        if place + length <= end:
            yield kind, data[place : place + length]
        place += length + length % 2


def _sides(chunks: dict[bytes, bytes]) -> tuple[int, int]:
    """Width and height of the canvas."""
    try:
        if extended := chunks.get(b"VP8X"):
            return 1 + int.from_bytes(extended[4:7], "little"), 1 + int.from_bytes(extended[7:10], "little")
        if lossless := chunks.get(b"VP8L"):
            (sides,) = struct.unpack_from("<I", lossless, 1)
            return 1 + (sides & 0x3FFF), 1 + (sides >> 14 & 0x3FFF)
        width, height = struct.unpack_from("<HH", chunks[b"VP8 "], 6)
    except (KeyError, struct.error):
        raise CorruptImageError("the image is damaged: it ends within its pixels") from None
    return width & 0x3FFF, height & 0x3FFF


def _needed(chunks: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The chunks that make the pixels of the first frame, in order."""
    extended = chunks.get(b"VP8X", b"")
    if not extended:
        kinds = [b"VP8L"] if b"VP8L" in chunks else [b"VP8 "]
    elif extended[0] & _ANIMATION:
        kinds = [b"ANIM", b"ANMF"]
    else:
        kinds = [b"ALPH", b"VP8 ", b"VP8L"]
    needed = {b"VP8X": bytes([extended[0] & (_ANIMATION | _ALPHA)]) + extended[1:]} if extended else {}
    return needed | {kind: chunks[kind] for kind in kinds if kind in chunks}


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(content)) + content + bytes(len(content) % 2)
