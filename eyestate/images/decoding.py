"""Encoded images to upright pixels, whatever their format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from eyestate.arrays import Pixels
from eyestate.errors import EmptyImageError, ImageError, ImageTooLargeError, UnreadableFileError, UnsupportedImageError
from eyestate.images import bmp, jpeg, png, webp
from eyestate.images.limits import FORMATS, MAX_BYTES, MAX_SIDE
from eyestate.images.pixels import Mode


def decode(data: bytes, max_pixels: int = MAX_SIDE**2) -> Pixels:
    """Decode one encoded image to upright 8-bit grey pixels.

    Colour is converted to ITU-R 601-2 luma, 16-bit samples are scaled to 8 bits. As in a browser, what is transparent
    shows a white page, and the orientation is that of EXIF, in every format; only the first frame of an animation is
    read. Colour profiles and gamma are not applied.

    Args:
        data: a JPEG, PNG, WebP or BMP file of at most ``MAX_BYTES``.
        max_pixels: the rest of the pixel budget that several images share.

    Returns:
        uint8 array (height, width), each side ``MIN_SIDE`` to ``MAX_SIDE`` pixels.

    Raises:
        EmptyImageError, ImageTooLargeError, ImageTooSmallError, UnsupportedImageError, CorruptImageError: byte and
            pixel limits are checked before any pixel is decoded.
    """
    return _decode(data, "L", max_pixels)


def decode_rgb(data: bytes) -> Pixels:
    """As ``decode``, to RGB: uint8 array (height, width, 3); grey has three equal channels."""
    return _decode(data, "RGB", MAX_SIDE**2)


def read(path: Path) -> bytes:
    """The bytes of an image file, at most one more than ``decode`` accepts.

    Raises:
        UnreadableFileError: the file does not exist or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableFileError(f"cannot read {path}: {error.strerror}") from None


def header_pixels(data: bytes) -> int:
    """The number of pixels of an encoded image by its header, 0 where that cannot be read."""
    try:
        width, height = _decoder(data).sides(data)
    except ImageError:
        return 0
    return max(0, width) * height  # the width of a BMP has a sign


class _Decoder(NamedTuple):
    """The functions of the module of a format."""

    decode: Callable[[bytes, Mode, int], Pixels]
    sides: Callable[[bytes], tuple[int, int]]


_JPEG: Final = _Decoder(jpeg.decode, jpeg.sides)
_PNG: Final = _Decoder(png.decode, png.sides)
_WEBP: Final = _Decoder(webp.decode, webp.sides)
_BMP: Final = _Decoder(bmp.decode, bmp.sides)
_SHOWN_BYTES: Final = 24  # enough to tell a GIF, a web page or a pointer of Git LFS


def _decode(data: bytes, mode: Mode, max_pixels: int) -> Pixels:
    if not data:
        raise EmptyImageError("the image is empty (0 bytes)")
    if len(data) > MAX_BYTES:
        raise ImageTooLargeError(f"the image has {len(data):,} bytes; at most {MAX_BYTES:,} are accepted")
    return _decoder(data).decode(data, mode, max_pixels)


def _decoder(data: bytes) -> _Decoder:
    if data.startswith(jpeg.SIGNATURE):
        return _JPEG
    if data.startswith(png.SIGNATURE):
        return _PNG
    if data.startswith(webp.RIFF) and data.startswith(webp.WEBP, 8):
        return _WEBP
    if data.startswith(bmp.SIGNATURE):
        return _BMP
    raise UnsupportedImageError(
        f"not an image in one of the formats {', '.join(FORMATS)}: it begins with {data[:_SHOWN_BYTES]!r}"
    )
