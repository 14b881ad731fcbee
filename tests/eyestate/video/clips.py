"""Videos for tests: the portrait, with lids drawn over its eyes at known times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from tests.photos import LEFT_EYE, RIGHT_EYE, portrait

CORNER = (130, 10)  # of the head in the portrait
HEAD = 210  # its side
SIZE = (400, 240)
_TICKS = Fraction(1, 90_000)


@cache
def head(*, closed: bool) -> Image.Image:
    image = portrait().copy()
    draw = ImageDraw.Draw(image)
    for x, y in (RIGHT_EYE, LEFT_EYE) if closed else ():
        draw.ellipse((x - 10, y - 6, x + 10, y + 6), fill=(178, 128, 104))
        draw.arc((x - 10, y - 6, x + 10, y + 6), 20, 160, fill=(60, 40, 35), width=2)
    return image.crop((*CORNER, CORNER[0] + HEAD, CORNER[1] + HEAD))


def frame(places: Iterable[tuple[int, int]], *, closed: bool) -> Image.Image:
    """A frame with a head at each place."""
    canvas = Image.new("RGB", SIZE, (110, 110, 110))
    for place in places:
        canvas.paste(head(closed=closed), place)
    return canvas


def write_clip(
    path: Path, times: Sequence[float], *, closed: tuple[float, float] = (1.0, 1.3), heads: int = 1, turned: int = 0
) -> Path:
    """A video with frames at the times in seconds, in which heads move slowly to the right and the eyes close once.

    Args:
        turned: degrees counterclockwise by which a player must turn it, and by which it is stored the other way.
    """
    with av.open(path, "w") as output:
        stream = output.add_stream("libx264", rate=30, options={"preset": "ultrafast", "g": "15"})
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = SIZE if turned % 180 == 0 else SIZE[::-1]
        stream.codec_context.time_base = _TICKS
        if turned:
            stream.set_display_rotation(turned)
        for time in times:
            places = [(int(5 * time) + 200 * number, 15) for number in range(heads)]
            image = frame(places, closed=closed[0] <= time < closed[1])
            stored = np.ascontiguousarray(np.rot90(np.asarray(image), -turned // 90))
            picture = av.VideoFrame.from_ndarray(stored)
            picture.pts, picture.time_base = round(time / _TICKS), _TICKS
            output.mux(stream.encode(picture))
        output.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    with av.open(path, "w") as output:
        stream = output.add_stream("aac", rate=8_000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8_000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8_000
        output.mux(stream.encode(sound))
        output.mux(stream.encode())
    return path
