"""Image bytes to validated pixels: the one decoder of the service, the commands, training and evaluation."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from eyestate.arrays import Pixels
from eyestate.errors import (
    CorruptImageError,
    EmptyImageError,
    ImageError,
    ImageTooLargeError,
    ImageTooSmallError,
    UnreadableFileError,
    UnsupportedImageError,
)

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
MAX_BYTES: Final = 20 * 2**20
MIN_SIDE: Final = 8
MAX_SIDE: Final = 4096

Mode = Literal["L", "RGB"]

_EXIF_ORIENTATION: Final = 0x0112
# Exif 2.32, tag 274: the transposition that turns the stored pixels upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_RUN_LENGTHS: Final = (1, 2)  # biCompression BI_RLE8 and BI_RLE4
_LUMA_COLOURS: Final = frozenset({"Gray", "YCbCr", "RGB"})  # CMYK is left to Pillow
# Transparent pixels are composited on middle grey.
_BACKDROP: Final = 128
_MAX_PAINTED: Final = 2**30  # pixels in all scans of a JPEG: 64 scans of the largest image; encoders write about ten


def decode(data: bytes, max_pixels: int = MAX_SIDE**2) -> Pixels:
    """Decode one encoded image to upright 8-bit grey pixels.

    Colour is converted to ITU-R 601-2 luma, 16-bit samples are scaled to 8 bits, transparency is composited on middle
    grey, the EXIF orientation is applied, and only the first frame of an animation is read.

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
        if data.startswith(b"\xff\xd8"):
            height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=False)
            return int(height * width)
        with _NO_WARNINGS:
            width, height = Image.open(io.BytesIO(data), formats=FORMATS).size
        return int(width * height)
    except Exception:  # Pillow's decoders raise all kinds of errors for broken files
        return 0


def luma(rgb: Pixels) -> Pixels:
    """RGB (height, width, 3) to grey (height, width), uint8, ITU-R 601-2 luma."""
    return np.asarray(Image.fromarray(rgb).convert("L"))


def check_size(width: int, height: int) -> None:
    """Raise ImageTooSmallError or ImageTooLargeError unless both sides are ``MIN_SIDE`` to ``MAX_SIDE`` pixels."""
    if min(width, height) < MIN_SIDE:
        raise ImageTooSmallError(f"the image is {width}×{height} pixels; each side must have at least {MIN_SIDE}")
    if max(width, height) > MAX_SIDE:
        raise ImageTooLargeError(f"the image is {width}×{height} pixels; each side may have at most {MAX_SIDE}")


def to_input(pixels: Pixels, side: int) -> Pixels:
    """Resize grey pixels (height, width) to the model's square input (side, side), both uint8.

    Bilinear with antialiasing when shrinking (Pillow's ``BILINEAR``); the aspect ratio is not kept, as in training.
    """
    if pixels.shape == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))


def shrunk(pixels: Pixels, side: int) -> Pixels:
    """Grey pixels (height, width), resized as by ``to_input`` if they are more than the model uses."""
    return pixels if pixels.size <= side * side else to_input(pixels, side)


def to_inputs(crops: Pixels, side: int) -> Pixels:
    """``to_input`` for many grey crops of one size: (N, height, width) to (N, side, side), uint8, bit for bit the same.

    Pillow resizes along one axis at a time, rows first unless a crop is taller than wide. Each pass can therefore take
    all crops at once, stacked first vertically, then horizontally, which is several times faster.
    """
    n, height, width = crops.shape
    if n == 0 or (height, width) == (side, side):
        return crops.reshape(n, side, side)
    if n == 1:
        return to_input(crops[0], side)[np.newaxis]
    if height > width:
        return np.stack([to_input(crop, side) for crop in crops])
    columns = Image.fromarray(crops.reshape(n * height, width)).resize((side, n * height), Image.Resampling.BILINEAR)
    beside = np.asarray(columns).reshape(n, height, side).transpose(1, 0, 2).reshape(height, n * side)
    rows = Image.fromarray(np.ascontiguousarray(beside)).resize((n * side, side), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(rows).reshape(side, n, side).transpose(1, 0, 2))


def _decode(data: bytes, mode: Mode, max_pixels: int) -> Pixels:
    if not data:
        raise EmptyImageError("the image is empty (0 bytes)")
    if len(data) > MAX_BYTES:
        raise ImageTooLargeError(f"the image has {len(data):,} bytes; at most {MAX_BYTES:,} are accepted")
    if data.startswith(b"\xff\xd8") and (pixels := _sound_jpeg(data, mode, max_pixels)) is not None:
        return pixels
    size = 0
    try:
        with _NO_WARNINGS:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        check_size(image.width, image.height)
        size = image.width * image.height
        if size > max_pixels:
            raise ImageTooLargeError(
                f"the image is {image.width}×{image.height} pixels, and {max_pixels:,} are left of what the images of "
                "one request may have in all: send it in another"
            )
        _check_work(image, data)
        return _upright(image, mode)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise UnsupportedImageError(f"not an image in one of the formats {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageTooLargeError(f"the image has more than {MAX_SIDE} pixels on a side") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise all kinds of errors for broken files
        raise CorruptImageError(f"the image is damaged: {str(error) or type(error).__name__}", size) from None


def _sound_jpeg(data: bytes, mode: Mode, max_pixels: int) -> Pixels | None:
    """The pixels of an intact JPEG without EXIF, small ones in a tenth of Pillow's time; None for any other file.

    Both decoders are libjpeg-turbo and give the same pixels; Pillow's error messages are better.
    """
    if b"Exif" in data:
        return None
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data, strict=True)
        if colour not in _LUMA_COLOURS or height * width > max_pixels:
            return None
        if not MIN_SIDE <= min(height, width) <= max(height, width) <= MAX_SIDE:
            return None
        if _repaints(data, height * width):
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data, "GRAY" if mode == "L" else "RGB", strict=True)
    except ValueError:
        return None
    return pixels[:, :, 0] if mode == "L" else pixels


def _repaints(data: bytes, size: int) -> bool:
    """Whether a JPEG has far too many scans: each costs the file ten bytes, and the decoder a pass over all pixels."""
    return data.count(b"\xff\xda") * size > _MAX_PAINTED


def _check_work(image: Image.Image, data: bytes) -> None:
    """Raise UnsupportedImageError if decoding would take far longer than the size of the image justifies."""
    if image.format in ("JPEG", "MPO") and _repaints(data, image.width * image.height):
        raise UnsupportedImageError("the JPEG has very many scans; save it again")
    if image.info.get("compression") in _RUN_LENGTHS and image.format == "BMP":  # Pillow decodes these in Python
        raise UnsupportedImageError("the BMP is compressed; save it without compression, or as PNG")


def _upright(image: Image.Image, mode: Mode) -> Pixels:
    image.draft(mode, image.size)  # for grey, a colour JPEG is decoded straight to its luma
    image.load()
    orientation = _orientation(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray(_eight_bits(np.asarray(image), image.info.get("transparency", -1)))
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        backdrop = Image.new("RGBA", rgba.size, (_BACKDROP, _BACKDROP, _BACKDROP, 255))
        image = Image.alpha_composite(backdrop, rgba)
    image = image.convert(mode)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return np.asarray(image)


def _eight_bits(samples: npt.NDArray[np.uint16], transparent: int) -> Pixels:
    pixels = (samples >> 8).astype(np.uint8)
    pixels[samples == transparent] = _BACKDROP
    return pixels


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) where there is none or the EXIF block is broken."""
    try:
        with _NO_WARNINGS:
            return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # the pixels are fine: a broken EXIF block must not prevent scoring
        return 1


class _NoWarnings:
    """Suppresses Pillow's warnings about broken metadata.

    Warning filters belong to the process, so the first thread to enter sets them and the last to leave restores them. A
    lock around the whole block would let one slow file hold up all others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings(action="ignore")

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings(action="ignore")
                self._filters.__enter__()
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)


_NO_WARNINGS: Final = _NoWarnings()
