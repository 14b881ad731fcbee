"""The marker segments of a JPEG file (ITU-T T.81, annex B), reduced to those that make its pixels."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self

from eyestate.errors import CorruptImageError, UnsupportedImageError
from eyestate.images import exif
from eyestate.images.limits import check_segments

_SOI: Final = b"\xff\xd8"
_EOI: Final = b"\xff\xd9"
_MARKER: Final = re.compile(rb"\xff([^\x00\xff])")
_END_OF_SCAN: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

_DHT, _SOS, _APP0, _APP1, _APP14 = 0xC4, 0xDA, 0xE0, 0xE1, 0xEE
_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})  # baseline, extended, progressive; the same, arithmetic
_PROGRESSIVE: Final = frozenset({0xC2, 0xCA})
_ARITHMETIC: Final = frozenset({0xC9, 0xCA})
# Lossless, differential and hierarchical frames, and JPEG-LS
_UNSUPPORTED: Final = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF, 0xDE, 0xDF, 0xF7})
_TABLES: Final = frozenset({_DHT, 0xCC, 0xDB, 0xDD})  # and arithmetic conditioning, quantisation, restart interval
_IGNORED: Final = frozenset({*range(0xE0, 0xF0), 0xFE, 0xDC})  # applications, comments, number of lines
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})  # without content

_JFIF: Final = b"JFIF\0\1\1\0\0\1\0\1\0\0"  # all that matters is that there is one: colours are then YCbCr
_ADOBE: Final = re.compile(rb"Adobe.{6}(.)", re.DOTALL)  # with the colour transform
_WHOLE_BLOCK: Final = b"\0\x3f\0"  # of a sequential scan: all coefficients, all bits
_ZEROS: Final = bytes(8)
_PIECE_BYTES: Final = 64 * 2**10  # searched for a marker in 0.6 ms at most


@dataclass(frozen=True, slots=True)
class Frame:
    """The header of the image.

    Attributes:
        marker: says how it is coded.
        bits: of a sample.
        width, height: in pixels.
        lowest_bits: by component, of each coefficient in the scans so far; None where none has come.
    """

    marker: int
    bits: int
    width: int
    height: int
    lowest_bits: dict[int, list[int | None]]

    @classmethod
    def read(cls, marker: int, content: bytes) -> Self:
        """Read the segment of a frame.

        Raises:
            struct.error: it is too short.
        """
        bits, height, width, count = struct.unpack_from(">BHHB", content)
        components = content[6 : 6 + 3 * count : 3]
        return cls(marker, bits, width, height, {each: [None] * 64 for each in components})

    @property
    def size(self) -> int:
        """Pixels."""
        return self.width * self.height

    def is_complete(self) -> bool:
        """Whether scans have sent every bit of every coefficient."""
        return all(bit == 0 for bits in self.lowest_bits.values() for bit in bits)


@dataclass(slots=True)
class Jpeg:
    """What makes the pixels of a file.

    Attributes:
        parts: the start, the segments, each scan's coded data, and the end of the image, in this order.
        frame: the header, once it has come.
        scans: how many have come.
        orientation: of EXIF.
        has_transform: whether Adobe's marker says that colours are YCbCr or YCCK rather than RGB or CMYK; None without.
        zero_symbols: what codes of nothing but zeros mean, by class and number of the Huffman table. Frames of motion
            JPEG have no tables; theirs are those of T.81, K.3.
    """

    parts: list[bytes] = field(default_factory=lambda: [_SOI])
    frame: Frame | None = None
    scans: int = 0
    orientation: int | None = None
    has_transform: bool | None = None
    zero_symbols: dict[int, int] = field(default_factory=lambda: {0x10: 0x01, 0x11: 0x00})

    def add_frame(self, marker: int, content: bytes) -> None:
        if self.frame is not None:
            raise CorruptImageError("the image is damaged: it has two headers")
        self.frame = Frame.read(marker, content)
        self.add_segment(marker, content)

    def add_scan(self, content: bytes, coded: bytes) -> None:
        if self.frame is None:
            raise CorruptImageError("the image is damaged: it has no header")
        selectors = list(struct.iter_unpack("BB", content[1 : 1 + 2 * content[0]]))
        first, last, bits = struct.unpack_from("BBB", content, 1 + 2 * len(selectors))
        if self.frame.marker not in _PROGRESSIVE:
            first, last, bits = _WHOLE_BLOCK
            content = content[:-3] + _WHOLE_BLOCK
        for component, _ in selectors:
            if component not in self.frame.lowest_bits or last > 63:
                raise CorruptImageError("the image is damaged: a scan is of what the header does not have")
            self.frame.lowest_bits[component][first : last + 1] = [bits & 15] * (last + 1 - first)
        is_huffman_coded_ac = last > 0 and self.frame.marker not in _ARITHMETIC
        if is_huffman_coded_ac and any(self._has_noise_in_zeros(table) for _, table in selectors):
            coded = _without_zeros(coded)
        self.scans += 1
        self.add_segment(_SOS, content)
        self.parts.append(coded)

    def add_tables(self, marker: int, content: bytes) -> None:
        place = 0
        while marker == _DHT and place + 17 < len(content):
            self.zero_symbols[content[place]] = content[place + 17]
            place += 17 + sum(content[place + 1 : place + 17])
        self.add_segment(marker, content)

    def add_segment(self, marker: int, content: bytes) -> None:
        self.parts.append(_segment(marker, content))

    def end(self) -> None:
        """Add the end of the image, and Adobe's marker with the transform for its number of colours, if it has any."""
        if self.has_transform is not None and self.frame is not None:
            transform = self.has_transform * (2 if len(self.frame.lowest_bits) == 4 else 1)
            self.parts.insert(1, _segment(_APP14, b"Adobe\0\x64\0\0\0\0" + bytes([transform])))
        self.parts.append(_EOI)

    def _has_noise_in_zeros(self, tables: int) -> bool:
        """Whether zeros are coefficients to a scan's component, as in most files, rather than ends of blocks."""
        return self.zero_symbols.get(0x10 | tables & 15, 0) & 15 != 0


def parse(data: bytes) -> Jpeg:
    """Read a file up to the end of the image, which may be missing.

    Raises:
        CorruptImageError: a part of it is missing or was overwritten.
        UnsupportedImageError: it is of a kind that is hardly used, or has very many segments.
    """
    jpeg = Jpeg()
    try:
        for marker, content, coded in _segments(data):
            if marker == _SOS:
                jpeg.add_scan(content, coded)
            elif marker in _FRAMES:
                jpeg.add_frame(marker, content)
            elif marker in _TABLES:
                jpeg.add_tables(marker, content)
            elif marker == _APP0 and content.startswith(b"JFIF\0"):
                jpeg.add_segment(marker, _JFIF)
            elif marker == _APP14 and (adobe := _ADOBE.match(content)):
                jpeg.has_transform = adobe[1] != b"\0"
            elif marker == _APP1 and content.startswith(b"Exif\0") and jpeg.orientation is None:
                jpeg.orientation = exif.orientation(content)
            elif marker in _UNSUPPORTED:
                raise UnsupportedImageError(
                    "the JPEG is lossless, JPEG-LS or hierarchical; save it as baseline or progressive"
                )
            elif marker not in _IGNORED:
                raise CorruptImageError(f"the image is damaged: 0x{marker:02x} is no marker that a JPEG has")
    except (struct.error, IndexError):
        raise CorruptImageError("the image is damaged: a segment is too short") from None
    jpeg.end()
    return jpeg


def read_frame(data: bytes) -> Frame:
    """The header of an image whose pixels may be missing.

    Raises:
        CorruptImageError, UnsupportedImageError: there is none, or it is behind very many segments.
    """
    try:
        for marker, content, _ in _segments(data):
            if marker in _FRAMES:
                return Frame.read(marker, content)
    except struct.error:
        pass
    raise CorruptImageError("the image is damaged: it has no header")


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Marker and content of each segment up to the end of the image, and the coded data behind the header of a scan."""
    place, count = len(_SOI), 0
    while (found := _search(_MARKER, data, place)) is not None and found[0] != _EOI:
        check_segments(count := count + 1)
        marker, place = found[1][0], found.end()
        if marker in _ALONE:
            continue
        end = place + int.from_bytes(data[place : place + 2])
        content, place = data[place + 2 : end], end
        if end < found.end() + 2 or end > len(data):
            raise CorruptImageError("the image is damaged: it ends within a segment")
        if marker == _SOS:
            ending = _search(_END_OF_SCAN, data, place)
            place = ending.start() if ending else len(data)
        yield marker, content, data[end:place]


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _search(marker: re.Pattern[bytes], data: bytes, place: int) -> re.Match[bytes] | None:
    """The first marker from a place on. It is searched for in pieces, between which other threads run."""
    pieces = range(place, len(data), _PIECE_BYTES)
    matches = (marker.search(data, start, start + _PIECE_BYTES + 1) for start in pieces)
    return next((found for found in matches if found), None)


def _without_zeros(coded: bytes) -> bytes:
    """Coded data without zeros behind them; within them, that many are what a lost block of a disk or a transfer left.

    Taken for code, eight bytes of zeros would be twenty coefficients of the same value in a row.
    """
    if _ZEROS not in coded:
        return coded
    coded = coded.rstrip(b"\0") + b"\0"
    if _ZEROS in coded:
        raise CorruptImageError("the image is damaged: a part of it was overwritten by zeros")
    return coded
