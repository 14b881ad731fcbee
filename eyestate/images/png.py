"""PNG (W3C Recommendation, third edition), by Pillow, which gets the chunks that make the pixels and no others."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.errors import CorruptImageError
from eyestate.images.exif import orientation, upright
from eyestate.images.limits import check_pixels, check_segments
from eyestate.images.pixels import WHITE, Mode, decoding, flattened

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

_GREY, _COLOUR, _PALETTE, _GREY_ALPHA, _COLOUR_ALPHA = 0, 2, 3, 4, 6
_SAMPLES: Final = {_GREY: 1, _COLOUR: 3, _PALETTE: 1, _GREY_ALPHA: 2, _COLOUR_ALPHA: 4}
_DEPTHS: Final = {_GREY: (1, 2, 4, 8, 16), _PALETTE: (1, 2, 4, 8)}  # of others 8 and 16
_KEYS: Final = {_GREY: struct.Struct(">H"), _COLOUR: struct.Struct(">3H")}  # the one colour that is transparent
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_STEP: Final = 4096  # bytes that are inflated at a time, to 4 MiB at most


def decode(data: bytes, mode: Mode, max_pixels: int) -> Pixels:
    """The upright pixels of a PNG file, as ``eyestate.images.decode`` describes them; of an animation, its still image.

    Raises:
        ImageError: as there.
    """
    header = _Header.read(data)
    check_pixels(header.width, header.height, max_pixels)
    chunks = _chunks(data)
    with decoding(header.width * header.height):
        _check_length(chunks[b"IDAT"], header.length())
        file = SIGNATURE + b"".join(_chunk(kind, content) for kind, content in header.needed(chunks).items())
        image: Image.Image = Image.open(io.BytesIO(file), formats=["PNG"])
        image.load()
        if image.mode.startswith("I;16"):
            image = Image.fromarray(_eight_bits(np.asarray(image), image.info.get("transparency", -1)))
        return upright(flattened(image, mode), orientation(chunks.get(b"eXIf", b"")))


def sides(data: bytes) -> tuple[int, int]:
    """Width and height by the header.

    Raises:
        ImageError: there is none.
    """
    header = _Header.read(data)
    return header.width, header.height


@dataclass(frozen=True, slots=True)
class _Header:
    width: int
    height: int
    depth: int
    colour_type: int
    interlaced: int

    @classmethod
    def read(cls, data: bytes) -> Self:
        if data[8:16] != b"\0\0\0\x0dIHDR" or data[29:33] != zlib.crc32(data[12:29]).to_bytes(4):
            raise CorruptImageError("the image is damaged: it has no header")
        width, height, depth, colour_type, _, filters, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
        if colour_type not in _SAMPLES or depth not in _DEPTHS.get(colour_type, (8, 16)) or filters or interlaced > 1:
            kind = f"colour type {colour_type}, {depth} bits, filter method {filters}, interlace method {interlaced}"
            raise CorruptImageError(f"the image is damaged: its header says {kind}, which does not exist")
        return cls(width, height, depth, colour_type, interlaced)

    def length(self) -> int:
        """Bytes of all rows, each with its filter type."""
        bits = self.depth * _SAMPLES[self.colour_type]
        total = 0
        for left, top, across, down in _ADAM7 if self.interlaced else ((0, 0, 1, 1),):
            width, height = -(-(self.width - left) // across), -(-(self.height - top) // down)
            total += height * (1 + -(-width * bits // 8)) if width > 0 and height > 0 else 0
        return total

    def needed(self, chunks: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """The chunks that make the pixels, in order."""
        needed = {b"IHDR": chunks[b"IHDR"]}
        if self.colour_type == _PALETTE:
            if not chunks.get(b"PLTE"):
                raise CorruptImageError("the image is damaged: it has no palette")
            needed[b"PLTE"] = chunks[b"PLTE"]
        transparency = chunks.get(b"tRNS", b"")
        if self.colour_type == _PALETTE and 3 * len(transparency) <= len(chunks[b"PLTE"]):
            needed[b"tRNS"] = transparency
        elif self.colour_type in _KEYS and len(transparency) == _KEYS[self.colour_type].size:
            needed[b"tRNS"] = self._key(transparency)
        return needed | {b"IDAT": chunks[b"IDAT"], b"IEND": b""}

    def _key(self, transparency: bytes) -> bytes:
        """The transparent colour in the samples that Pillow decodes to, with which it compares it as it is."""
        key = _KEYS[self.colour_type]
        if self.depth < 8:
            return key.pack(*(sample * 255 // (2**self.depth - 1) for sample in key.unpack(transparency)))
        if self.depth == 16 and self.colour_type == _COLOUR:
            return key.pack(*(sample >> 8 for sample in key.unpack(transparency)))
        return transparency


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """The first intact chunk of each kind, and all IDAT as one; what is broken behind the pixels is left out.

    As in browsers, transparency counts only between palette and pixels.

    Raises:
        CorruptImageError: one of those that make the pixels is missing, cut off or damaged.
    """
    chunks: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    place, count = len(SIGNATURE), 0
    while place + 12 <= len(data):
        check_segments(count := count + 1)
        length, kind = struct.unpack_from(">I4s", data, place)
        content = data[place + 8 : place + 8 + length]
        check = data[place + 8 + length : place + 12 + length]
        is_intact = check == zlib.crc32(content, zlib.crc32(kind)).to_bytes(4)
        place += 12 + length
        if kind in (b"PLTE", b"IDAT") and not is_intact:
            raise CorruptImageError(f"the image is damaged: the checksum of its {kind.decode()} chunk is wrong")
        if kind == b"IEND":
            break
        if kind == b"IDAT":
            pixels.append(content)
        elif is_intact and not (kind == b"tRNS" and pixels):
            chunks.setdefault(kind, content)
            if kind == b"PLTE":
                chunks.pop(b"tRNS", None)
    chunks[b"IDAT"] = b"".join(pixels)
    return chunks


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + zlib.crc32(content, zlib.crc32(kind)).to_bytes(4)


def _check_length(compressed: bytes, expected: int) -> None:
    """Raise EOFError unless the pixels are all there: Pillow leaves those black that are not."""
    inflater, length = zlib.decompressobj(), 0
    for place in range(0, len(compressed), _STEP):
        length += len(inflater.decompress(compressed[place : place + _STEP]))
        if length >= expected:
            return
    raise EOFError("it ends before its last pixel")


def _eight_bits(samples: npt.NDArray[np.uint16], transparent: int) -> Pixels:
    pixels = (samples >> 8).astype(np.uint8)
    pixels[samples == transparent] = WHITE
    return pixels
