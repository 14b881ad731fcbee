"""What the decoders of all formats have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

import numpy as np
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.errors import CorruptImageError, ImageError

Mode = Literal["L", "RGB"]

WHITE: Final = 255
_STRIP: Final = 2**16  # pixels, for which Pillow takes a millisecond, in which no other thread of Python runs


def flattened(image: Image.Image, mode: Mode) -> Pixels:
    """Samples of 8 bits as grey (height, width) or RGB (height, width, 3), uint8.

    What is transparent shows the white of a browser's page.
    """
    if not image.has_transparency_data:
        return np.asarray(image.convert(mode))
    width, height = image.size
    rows = max(1, _STRIP // width)
    strips = (image.crop((0, top, width, min(height, top + rows))) for top in range(0, height, rows))
    return np.concatenate([np.asarray(_on_white(strip).convert(mode)) for strip in strips])


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (WHITE, WHITE, WHITE, 255)), rgba)


@contextmanager
def decoding(size: int) -> Iterator[None]:
    """Turn the errors of all kinds that Pillow raises for a broken file of ``size`` pixels to CorruptImageError."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise CorruptImageError(f"the image is damaged: {str(error) or type(error).__name__}", size) from None
