"""Grey pixels at the size of a model's input."""

from __future__ import annotations

import numpy as np
from PIL import Image

from eyestate.arrays import Pixels


def luma(rgb: Pixels) -> Pixels:
    """RGB (height, width, 3) to grey (height, width), uint8, ITU-R 601-2 luma."""
    return np.asarray(Image.fromarray(rgb).convert("L"))


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
