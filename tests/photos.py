"""Photos for tests: a portrait that ships with scikit-image, alone, changed and in company."""

from __future__ import annotations

from functools import cache

import numpy as np
import skimage.data
from PIL import Image, ImageDraw

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


def group(*heads: Image.Image) -> Image.Image:
    """Heads beside each other, the first the largest."""
    canvas = Image.new("RGB", (260 * len(heads), 260), (120, 120, 120))
    for place, head in enumerate(heads):
        side = 260 - 20 * place
        canvas.paste(head.resize((side, side), Image.Resampling.BICUBIC), (260 * place, 0))
    return canvas


def head() -> Image.Image:
    """The face of the portrait, 260×260: ``EYES`` are its eyes."""
    return portrait().crop((95, 0, 355, 260))


EYES: tuple[tuple[int, int], ...] = tuple((x - 95, y) for x, y in (RIGHT_EYE, LEFT_EYE))


def shut(image: Image.Image, *eyes: tuple[int, int]) -> Image.Image:
    """A face with eyes painted over by the skin below them, and a dark line where the lids meet."""
    pixels = np.array(image)
    for x, y in eyes:
        pixels[y - 8 : y + 8, x - 14 : x + 14] = pixels[y + 14 : y + 16, x - 14 : x + 14].mean((0, 1))
        pixels[y + 3 : y + 5, x - 12 : x + 12] = 60
    return Image.fromarray(pixels)


def covered(image: Image.Image, *eyes: tuple[int, int], colour: tuple[int, int, int]) -> Image.Image:
    """A face with something of one colour in front of eyes, a little uneven as things are."""
    pixels = np.array(image)
    uneven = np.random.default_rng(0).normal(0, 3, (24, 36, 1))
    for x, y in eyes:
        pixels[y - 12 : y + 12, x - 18 : x + 18] = np.clip(np.array(colour) + uneven, 0, 255)
    return Image.fromarray(pixels)


def sunglasses(
    image: Image.Image, colour: tuple[int, int, int], opacity: float, size: tuple[int, int] = (19, 15)
) -> Image.Image:
    """A face behind sunglasses; ``size`` is half the width and height of a glass."""
    glasses = Image.new("L", image.size)
    draw = ImageDraw.Draw(glasses)
    for x, y in EYES:
        draw.ellipse((x - size[0], y - size[1] + 2, x + size[0], y + size[1] + 2), fill=round(255 * opacity))
    draw.line((*EYES[0], *EYES[1]), fill=round(255 * opacity), width=3)
    return Image.composite(Image.new("RGB", image.size, colour), image, glasses)


def turned(image: Image.Image, degrees: float) -> Image.Image:
    """A face turned to the side: on half an ellipsoid with a nose, seen from the front again."""
    pixels, fine = np.array(image), 3
    (right, top), (left, _) = EYES
    eyes = left - right
    ys, xs = np.mgrid[0 : fine * image.height, 0 : fine * image.width] / fine
    x, y = (xs - (right + left) / 2) / eyes, (ys - top) / eyes
    left_of = 1 - (x / 1.25) ** 2 - ((y - 0.45) / 1.7) ** 2
    depth = 1.25 * np.sqrt(left_of.clip(0)) + 0.5 * np.exp(-((x / 0.22) ** 2) - ((y - 0.6) / 0.38) ** 2)
    angle = np.deg2rad(degrees)
    columns = np.rint((x * np.cos(angle) + depth * np.sin(angle)) * eyes + (right + left) / 2).astype(int)
    nearness = depth * np.cos(angle) - x * np.sin(angle)
    seen = (left_of > 0) & (columns >= 0) & (columns < image.width)
    nearest_last = np.argsort(nearness[seen], kind="stable")
    rows, sources = ys[seen].astype(int)[nearest_last], xs[seen].astype(int)[nearest_last]
    canvas = np.full_like(pixels, 95)
    canvas[rows, columns[seen][nearest_last]] = pixels[rows, sources]
    return Image.fromarray(canvas)


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
