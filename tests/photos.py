"""Photos for tests: a portrait that ships with scikit-image, alone, changed and in company."""

from __future__ import annotations

from functools import cache

import numpy as np
import skimage.data
from PIL import Image

from eyestate.arrays import Pixels

# Where the portrait's face and eyes are: the eyes as a person points at them, the box around forehead and chin.
RIGHT_EYE, LEFT_EYE = (205, 102), (246, 103)
BOX = (179, 62, 88, 110)


def shipped(name: str) -> Pixels:
    """One of the images that scikit-image ships."""
    pixels: Pixels = getattr(skimage.data, name)()
    return pixels


@cache
def portrait() -> Image.Image:
    """NASA's portrait of Eileen Collins, 512×512, RGB: one face, both eyes open."""
    return Image.fromarray(shipped("astronaut"))


def shrunk(share: float) -> Image.Image:
    """The portrait at a share of its size."""
    width, height = portrait().size
    return portrait().resize((round(width * share), round(height * share)), Image.Resampling.BOX)


def collage() -> Image.Image:
    """Four faces, 100 to 40 px wide, on 900×600 grey pixels: one grey, one dark, one turned by 10 degrees."""
    canvas = Image.new("RGB", (900, 600), (120, 120, 120))
    head = portrait().crop((100, 0, 360, 260))
    canvas.paste(head.resize((300, 300), Image.Resampling.BICUBIC), (20, 20))
    canvas.paste(head.convert("L").convert("RGB"), (380, 20))
    canvas.paste(head.point(lambda value: round(value * 0.35)), (20, 330))
    canvas.paste(head.rotate(10, Image.Resampling.BICUBIC).resize((130, 130), Image.Resampling.BOX), (400, 400))
    return canvas


def without_face() -> dict[str, Pixels]:
    """What others photograph, and what nobody does."""
    noise = np.random.default_rng(0)
    return {
        "coffee": shipped("coffee"),
        "cat": shipped("chelsea"),
        "rocket": shipped("rocket"),
        "brick": np.stack([shipped("brick")] * 3, axis=-1),
        "page": np.stack([shipped("page")] * 3, axis=-1),
        "noise": noise.integers(0, 256, (300, 400, 3), np.uint8),
        "black": np.zeros((300, 400, 3), np.uint8),
    }
