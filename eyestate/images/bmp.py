"""BMP as Windows and OS/2 write it, uncompressed, with bit fields or run-length encoded, shown as browsers do."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.errors import CorruptImageError, UnsupportedImageError
from eyestate.images.limits import check_pixels
from eyestate.images.pixels import WHITE, Mode, flattened

SIGNATURE: Final = b"BM"

_HEADER: Final = 14  # offset of the header that says how the pixels are stored
_CORE: Final = 12  # its length in Windows 2 and OS/2 1; all later ones begin like that of Windows 3
_BITFIELDS: Final = _HEADER + 40  # offset of the masks, which are a part of headers longer than this
_RGB, _RLE8, _RLE4, _MASKED, _ALPHA_MASKED = 0, 1, 2, 3, 6  # biCompression
_DEPTHS: Final = {
    _RGB: (1, 2, 4, 8, 16, 24, 32),
    _RLE8: (8,),
    _RLE4: (4,),
    _MASKED: (16, 24, 32),
    _ALPHA_MASKED: (16, 24, 32),
}
_MASKS: Final = {16: (0x7C00, 0x3E0, 0x1F, 0), 24: (0xFF0000, 0xFF00, 0xFF, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}
_MAX_RUNS: Final = 2**18  # bytes of run-length encoding, for which Python takes a tenth of a second
_NIBBLES: Final = bytes.maketrans(b"0123456789abcdef", bytes(range(16)))


def decode(data: bytes, mode: Mode, max_pixels: int) -> Pixels:
    """The pixels of a BMP file, as ``eyestate.images.decode`` describes them.

    Raises:
        ImageError: as there.
    """
    header = _Header.read(data)
    check_pixels(header.width, header.height, max_pixels)
    if header.depth not in _DEPTHS.get(header.compression, ()):
        kind = f"{header.depth} bits a pixel, compression {header.compression}"
        raise UnsupportedImageError(f"the BMP is of a kind that is hardly used ({kind}); save it as PNG")
    if header.depth <= 8:
        if not len(header.palette):
            raise CorruptImageError("the image is damaged: it has no palette")
        colours = np.pad(header.palette, ((0, 256 - len(header.palette)), (0, 0)))  # with black
        palette = flattened(Image.fromarray(colours[np.newaxis]), mode)[0]
        pixels = _coloured(data, header, palette)
    else:
        pixels = flattened(Image.fromarray(_samples(_rows(data, header), header)), mode)
    return np.ascontiguousarray(pixels if header.is_top_down else pixels[::-1])


def sides(data: bytes) -> tuple[int, int]:
    """Width and height by the header.

    Raises:
        ImageError: there is none.
    """
    header = _Header.read(data)
    return header.width, header.height


@dataclass(frozen=True, slots=True)
class _Header:
    """The header.

    Attributes:
        width, height: in pixels.
        is_top_down: whether the upper row comes first.
        depth: bits of a pixel.
        compression: biCompression.
        masks: the bits of red, green, blue and alpha in a pixel.
        palette: RGB, uint8 (N, 3), N up to 256.
        offset: of the pixels.
    """

    width: int
    height: int
    is_top_down: bool
    depth: int
    compression: int
    masks: tuple[int, ...]
    palette: Pixels
    offset: int

    @classmethod
    def read(cls, data: bytes) -> Self:
        try:
            return cls._read(data)
        except struct.error:
            raise CorruptImageError("the image is damaged: it ends within its header") from None

    @classmethod
    def _read(cls, data: bytes) -> Self:
        offset, length = struct.unpack_from("<II", data, 10)
        end = _HEADER + length
        if length == _CORE:
            width, height, _, depth = struct.unpack_from("<HHHH", data, _HEADER + 4)
            compression, colours = _RGB, 0
        else:  # OS/2 2 may leave out any of the last fields
            fields = data[_HEADER + 4 : end].ljust(32, b"\0")
            width, height, _, depth, compression, colours = struct.unpack_from("<iiHHI12xI", fields)
        masks = _MASKS.get(depth, ())
        if depth in _MASKS and compression in (_MASKED, _ALPHA_MASKED):
            has_alpha = compression == _ALPHA_MASKED or length >= 56
            masks = struct.unpack_from("<4I" if has_alpha else "<3I", data, _BITFIELDS)
            end = max(end, _BITFIELDS + 4 * len(masks))
        entry = 3 if length == _CORE else 4
        colours = min(colours or 2**depth, 2**depth) if depth <= 8 else 0
        offset = offset if offset >= end else end + entry * colours
        palette = _palette(data[end : min(offset, end + entry * colours)], entry)
        return cls(width, abs(height), height < 0, depth, compression, masks, palette, offset)


def _palette(data: bytes, entry: int) -> Pixels:
    """Colours of ``entry`` bytes, blue first, as RGB."""
    return np.frombuffer(data, np.uint8, len(data) // entry * entry).reshape(-1, entry)[:, 2::-1]


def _rows(data: bytes, header: _Header) -> Pixels:
    """The stored rows, uint8 (height, bytes), each filled up to a multiple of four bytes but for the last."""
    used = (header.width * header.depth + 7) // 8
    length = (header.width * header.depth + 31) // 32 * 4
    stored = data[header.offset : header.offset + header.height * length]
    if len(stored) < (header.height - 1) * length + used:
        raise CorruptImageError("the image is damaged: it ends before its last pixel", header.width * header.height)
    return np.frombuffer(stored.ljust(header.height * length, b"\0"), np.uint8).reshape(header.height, length)


def _samples(rows: Pixels, header: _Header) -> Pixels:
    """RGB or, where a pixel is not opaque, RGBA, uint8 (height, width, 3 or 4)."""
    stored = rows[:, : header.width * header.depth // 8].reshape(len(rows), header.width, -1)
    *colours, alpha = [_channel(stored, mask) for mask in header.masks]
    if alpha.any():
        colours.append(alpha)  # otherwise nobody wrote it: Windows ignores it, and many programs leave zeros there
    return np.stack(colours, axis=-1)


def _channel(stored: Pixels, mask: int) -> Pixels:
    """The bits of ``mask`` in each pixel (height, width, bytes), scaled to 8 bits: uint8 (height, width)."""
    if mask == 0:
        return np.zeros(stored.shape[:2], np.uint8)
    shift = (mask & -mask).bit_length() - 1
    largest = mask >> shift
    if largest == 255 and shift % 8 == 0 and shift // 8 < stored.shape[2]:
        return stored[:, :, shift // 8]
    values = np.zeros(stored.shape[:2], np.uint32)
    for place in range(stored.shape[2]):
        values |= stored[:, :, place].astype(np.uint32) << np.uint32(8 * place)
    values = (values & np.uint32(mask)) >> np.uint32(shift)
    if largest > 255:
        return (values >> np.uint32(largest.bit_length() - 8)).astype(np.uint8)
    return ((values * 255 + largest // 2) // largest).astype(np.uint8)


def _coloured(data: bytes, header: _Header, palette: Pixels) -> Pixels:
    """The entry of a palette for each pixel: uint8 (height, width) or (height, width, 3)."""
    if header.compression != _RGB:
        return _run_length_decoded(data[header.offset :], header, palette)
    shifts = np.arange(8 - header.depth, -1, -header.depth, dtype=np.uint8)
    indices = _rows(data, header)[:, :, np.newaxis] >> shifts & (2**header.depth - 1)
    pixels: Pixels = palette[indices.reshape(header.height, -1)[:, : header.width]]
    return pixels


def _run_length_decoded(runs: bytes, header: _Header, palette: Pixels) -> Pixels:
    """As ``_coloured``; pixels that are left out are transparent."""
    size = header.width * header.height
    indices, left_out = bytearray(size), bytearray(b"\1") * size
    try:
        for start, run in _runs(runs[:_MAX_RUNS], header):
            indices[start : start + len(run)] = run
            left_out[start : start + len(run)] = bytes(len(run))
    except IndexError:
        if len(runs) > _MAX_RUNS:
            raise UnsupportedImageError("the BMP is compressed, and large; save it as PNG") from None
        raise CorruptImageError("the image is damaged: it ends before its last pixel", size) from None
    pixels: Pixels = palette[np.frombuffer(indices, np.uint8)]
    pixels[np.frombuffer(left_out, np.bool_)] = WHITE
    return pixels.reshape(header.height, header.width, *palette.shape[1:])


def _runs(data: bytes, header: _Header) -> Iterator[tuple[int, bytes]]:
    """Where each run begins, and its palette indices.

    Raises:
        IndexError: the data end before the bitmap.
    """
    place = x = y = 0
    while y < header.height:
        if place >= len(data) and y == header.height - 1 and x >= header.width:
            return
        count, value = data[place], data[place + 1]
        place += 2
        if count == 0 and value == 0:  # the end of the row
            x, y = 0, y + 1
        elif count == 0 and value == 1:  # the end of the bitmap
            return
        elif count == 0 and value == 2:  # further right and up
            x, y = x + data[place], y + data[place + 1]
            place += 2
        else:
            if count:
                stored = bytes([value]) * ((count * header.depth + 7) // 8)
            else:
                count, length = value, (value * header.depth + 7) // 8
                stored = data[place : place + length]
                place += length + length % 2
            left = max(0, header.width - x)
            yield y * header.width + x, _indices(stored, header.depth)[: min(count, left)]
            x += count


def _indices(stored: bytes, depth: int) -> bytes:
    return stored if depth == 8 else stored.hex().encode().translate(_NIBBLES)
