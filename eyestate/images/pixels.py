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


def flattened(image: Image.Image, mode: Mode) -> Pixels:
    """Samples of 8 bits as grey (height, width) or RGB (height, width, 3), uint8.

    What is transparent shows the white of a browser's page.
    """
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (WHITE, WHITE, WHITE, 255)), rgba)
    return np.asarray(image.convert(mode))


@contextmanager
def decoding(size: int) -> Iterator[None]:
    """Turn the errors of all kinds that Pillow raises for a broken file of ``size`` pixels to CorruptImageError."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise CorruptImageError(f"the image is damaged: {str(error) or type(error).__name__}", size) from None
