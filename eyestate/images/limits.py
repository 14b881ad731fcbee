"""What is accepted: formats, bytes, and pixels, which are checked before any of them is decoded."""

from __future__ import annotations

from typing import Final

from eyestate.errors import ImageTooLargeError, ImageTooSmallError, UnsupportedImageError

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")
SUFFIXES: Final = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".bmp", ".dib")
)
MAX_BYTES: Final = 20 * 2**20
MIN_SIDE: Final = 8
MAX_SIDE: Final = 4096
# Segments of a JPEG, or chunks of a PNG or WebP: 20 MiB in full JPEG segments are 320, a photo's PNG has 2,500.
MAX_SEGMENTS: Final = 16_384


def check_size(width: int, height: int) -> None:
    """Raise ImageTooSmallError or ImageTooLargeError unless both sides are ``MIN_SIDE`` to ``MAX_SIDE`` pixels."""
    if min(width, height) < MIN_SIDE:
        raise ImageTooSmallError(f"the image is {width}×{height} pixels; each side must have at least {MIN_SIDE}")
    if max(width, height) > MAX_SIDE:
        raise ImageTooLargeError(f"the image is {width}×{height} pixels; each side may have at most {MAX_SIDE}")


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """As ``check_size``; ImageTooLargeError also if the image has more than ``max_pixels`` pixels."""
    check_size(width, height)
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image is {width}×{height} pixels, and {max_pixels:,} are left of what the images of one request may "
            "have in all: send it in another"
        )


def check_segments(count: int) -> None:
    """Raise UnsupportedImageError if a file has more than ``MAX_SEGMENTS`` segments or chunks."""
    if count > MAX_SEGMENTS:
        raise UnsupportedImageError(f"the image file has more than {MAX_SEGMENTS:,} segments; save it again")
