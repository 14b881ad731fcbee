"""JPEG, by libjpeg-turbo at its strictest: where it would fill a gap in the image with grey, the image is damaged."""

from __future__ import annotations

import io
import re
from typing import Final

import numpy as np
import simplejpeg
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.errors import CorruptImageError, UnsupportedImageError
from eyestate.images.exif import upright
from eyestate.images.limits import MAX_SIDE, MIN_SIDE, check_pixels
from eyestate.images.markers import Frame, parse, read_frame
from eyestate.images.pixels import Mode, decoding, flattened

SIGNATURE: Final = b"\xff\xd8\xff"

_SCAN: Final = b"\xff\xda"
_ZEROS: Final = bytes(8)
_COMPONENTS: Final = {"Gray": 1, "YCbCr": 3, "RGB": 3}
_MAX_SCANS: Final = 256
_MAX_PAINTED: Final = 2**29  # pixels in all scans: 32 scans of the largest image; encoders write about ten
_STRAY: Final = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_MAX_STRAY: Final = 8  # bytes between the last scan and the end of the image, unless all are the same


def decode(data: bytes, mode: Mode, max_pixels: int) -> Pixels:
    """The upright pixels of a JPEG file, as ``eyestate.images.decode`` describes them.

    Raises:
        ImageError: as there.
    """
    pixels = _plain(data, mode, max_pixels)
    return _any(data, mode, max_pixels) if pixels is None else pixels


def sides(data: bytes) -> tuple[int, int]:
    """Width and height by the header.

    Raises:
        ImageError: there is none.
    """
    frame = read_frame(data)
    return frame.width, frame.height


def _plain(data: bytes, mode: Mode, max_pixels: int) -> Pixels | None:
    """The pixels of an intact JPEG of one scan and without EXIF, as most crops are; None for any other file."""
    scan = data.find(_SCAN)
    if data.find(b"Exif", 0, scan) >= 0 or data.find(_SCAN, scan + 2) >= 0 or data.find(_ZEROS, scan) >= 0:
        return None
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data, strict=True)
        components = _COMPONENTS[colour]
        if not MIN_SIDE <= min(height, width) <= max(height, width) <= MAX_SIDE or height * width > max_pixels:
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data, "GRAY" if mode == "L" else "RGB", strict=True)
    except (ValueError, KeyError):  # KeyError also for colours that simplejpeg has no name for
        return None
    if data[scan + 4] != components or data[scan + 6 + 2 * components] != 63:  # more scans should have followed
        return None
    return pixels[:, :, 0] if mode == "L" else pixels


def _any(data: bytes, mode: Mode, max_pixels: int) -> Pixels:
    jpeg = parse(data)
    frame = jpeg.frame
    if frame is None or not jpeg.scans:
        raise CorruptImageError("the image is damaged: it ends before its pixels")
    check_pixels(frame.width, frame.height, max_pixels)
    if frame.bits != 8:
        raise UnsupportedImageError(f"the JPEG has {frame.bits} bits a sample; save it with 8")
    if jpeg.scans > _MAX_SCANS or jpeg.scans * frame.size > _MAX_PAINTED:
        raise UnsupportedImageError("the JPEG has very many scans; save it again")
    if not frame.is_complete():
        raise CorruptImageError("the image is damaged: scans are missing")
    return upright(_strictly(jpeg.parts, frame, mode), jpeg.orientation or 1)


def _strictly(parts: list[bytes], frame: Frame, mode: Mode) -> Pixels:
    try:
        return _pixels(b"".join(parts), frame, mode)
    except ValueError as error:
        fault = str(error)
    if stray := _STRAY.search(fault):
        *head, scan, end = parts
        length = len(scan) - int(stray[1])
        if len(scan) - length <= _MAX_STRAY or len(set(scan[length:])) == 1:
            return _strictly([*head, scan[:length], end], frame, mode)
    raise CorruptImageError(f"the image is damaged: {fault}", frame.size)


def _pixels(data: bytes, frame: Frame, mode: Mode) -> Pixels:
    if len(frame.lowest_bits) == 4:
        inverted = simplejpeg.decode_jpeg(data, "CMYK", strict=True)
        return flattened(Image.fromarray(255 - inverted, "CMYK"), mode)
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "GRAY" if mode == "L" else "RGB", strict=True)
    except ValueError as error:
        if "subsampling" not in str(error):
            raise
        return _oddly_sampled(data, frame.size, mode)
    return pixels[:, :, 0] if mode == "L" else pixels


def _oddly_sampled(data: bytes, size: int, mode: Mode) -> Pixels:
    """The pixels of a JPEG whose subsampling, such as 3:1:1, has no name in TurboJPEG's interface."""
    with decoding(size), Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        image.draft(mode, image.size)
        return np.asarray(image.convert(mode))
