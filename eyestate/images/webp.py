"""WebP (RFC 9649), by libwebp, which gets the chunks that make the first frame and no others.

It is the library that Pillow brings, called without Pillow: that reads a still image as an animation of one frame, into
two canvases and a copy that is made while no other thread of Python runs: 0.1 s for the largest image.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
from PIL import Image, _webp

from eyestate.arrays import Pixels
from eyestate.errors import CorruptImageError
from eyestate.images.exif import orientation, upright
from eyestate.images.limits import check_pixels, check_segments
from eyestate.images.pixels import WHITE, Mode, flattened

RIFF: Final = b"RIFF"
WEBP: Final = b"WEBP"

_ANIMATION, _ALPHA = 0x02, 0x10  # flags of VP8X
_FRAME_HEADER: Final = 16  # bytes of ANMF before the chunks of its frame

_libwebp: Final = ctypes.CDLL(_webp.__file__)  # where the names of the libraries that it needs are found, too
_SIGNATURE: Final = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
for _decode in (_libwebp.WebPDecodeRGBInto, _libwebp.WebPDecodeRGBAInto):
    _decode.argtypes, _decode.restype = _SIGNATURE, ctypes.c_void_p


def decode(data: bytes, mode: Mode, max_pixels: int) -> Pixels:
    """The upright pixels of a WebP file, as ``eyestate.images.decode`` describes them; the first frame of an animation.

    Raises:
        ImageError: as there.
    """
    chunks = _first_of_each(data)
    width, height = _sides(chunks)
    check_pixels(width, height, max_pixels)
    flags = chunks[b"VP8X"][0] if b"VP8X" in chunks else _ALPHA
    if flags & _ANIMATION:
        pixels = _first_frame(chunks.get(b"ANMF", b""), width, height, flags)
    else:
        pixels = _still(chunks, width, height, flags)
    return upright(flattened(Image.fromarray(pixels), mode), orientation(chunks.get(b"EXIF", b"")))


def sides(data: bytes) -> tuple[int, int]:
    """Width and height by the header.

    Raises:
        ImageError: there is none.
    """
    return _sides(_first_of_each(data))


def _first_of_each(data: bytes) -> dict[bytes, bytes]:
    """The first chunk of each kind in a file."""
    return _read(data, 12, min(len(data), 8 + int.from_bytes(data[4:8], "little")))


def _read(data: bytes, start: int, end: int) -> dict[bytes, bytes]:
    chunks: dict[bytes, bytes] = {}
    for kind, content in _chunks(data, start, end):
        chunks.setdefault(kind, content)
    return chunks


def _chunks(data: bytes, place: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    count = 0
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


def _first_frame(frame: bytes, width: int, height: int, flags: int) -> Pixels:
    """The canvas of an animation with its first frame, which may be smaller: RGBA, uint8 (height, width, 4)."""
    left, top, across, down = (int.from_bytes(frame[place : place + 3], "little") for place in (0, 3, 6, 9))
    rows, columns = slice(2 * top, 2 * top + down + 1), slice(2 * left, 2 * left + across + 1)
    if rows.stop > height or columns.stop > width:
        raise CorruptImageError("the image is damaged: its frame is larger than its canvas", width * height)
    stored = _still(_read(frame, _FRAME_HEADER, len(frame)), across + 1, down + 1, flags)
    canvas = np.zeros((height, width, 4), np.uint8)
    canvas[rows, columns, 3] = WHITE
    canvas[rows, columns, : stored.shape[2]] = stored
    return canvas


def _still(chunks: dict[bytes, bytes], width: int, height: int, flags: int) -> Pixels:
    """The pixels of a frame: RGB or, where it and the file say that some are transparent, RGBA, uint8 (height, width, 3
    or 4).
    """
    if lossless := chunks.get(b"VP8L"):
        has_alpha = flags & _ALPHA and int.from_bytes(lossless[1:5], "little") >> 28 & 1
        file = _chunk(b"VP8L", lossless)
    else:
        has_alpha = flags & _ALPHA and b"ALPH" in chunks
        file = _chunk(b"VP8 ", chunks.get(b"VP8 ", b""))
        if has_alpha:
            canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
            file = _chunk(b"VP8X", bytes([_ALPHA, 0, 0, 0]) + canvas) + _chunk(b"ALPH", chunks[b"ALPH"]) + file
    file = RIFF + struct.pack("<I", 4 + len(file)) + WEBP + file
    found_width, found_height = ctypes.c_int(), ctypes.c_int()
    if not _libwebp.WebPGetInfo(file, len(file), ctypes.byref(found_width), ctypes.byref(found_height)):
        raise CorruptImageError("the image is damaged: it has no header", width * height)
    if (found_width.value, found_height.value) != (width, height):
        raise CorruptImageError("the image is damaged: its headers contradict each other", width * height)
    pixels = np.empty((height, width, 4 if has_alpha else 3), np.uint8)
    decode_into = _libwebp.WebPDecodeRGBAInto if has_alpha else _libwebp.WebPDecodeRGBInto
    if not decode_into(file, len(file), pixels.ctypes.data, pixels.nbytes, pixels.strides[0]):
        raise CorruptImageError("the image is damaged: its pixels cannot be decoded", width * height)
    return pixels


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(content)) + content + bytes(len(content) % 2)
