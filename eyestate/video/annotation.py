"""A video with boxes around faces and eyes in the colour of their state."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageDraw

from eyestate.atomic import PREFIX
from eyestate.extras import extra
from eyestate.mtcnn import Box
from eyestate.video.reading import opened, upright
from eyestate.video.recording import Shown

with extra("video"):
    import av
    import pyarrow as pa

if TYPE_CHECKING:
    from av.video.stream import VideoStream

ANNOTATED: Final = "annotated.mp4"
_COLOURS: Final = {"open": (0, 200, 80), "closed": (230, 40, 40), "unknown": (160, 160, 160)}
_TICKS: Final = Fraction(1, 90_000)  # seconds; fine enough for any frame rate


def annotate(source: str, folder: Path, timeline: pa.Table, shown: Shown) -> None:
    """Write ``annotated.mp4``: H.264, each frame at its own time, without sound.

    Args:
        source: the video.
        folder: where it goes.
        timeline: its rows, see ``results.SCHEMA``.
        shown: called as the work goes on.
    """
    rows: dict[float, list[dict[str, Any]]] = {}
    for row in timeline.to_pylist():
        rows.setdefault(row["time"], []).append(row)
    draft = folder / f"{PREFIX}{ANNOTATED}"
    with opened(source) as video, av.open(draft, "w", format="mp4") as output:
        stream: VideoStream | None = None
        for number, (time, frame) in enumerate(video.decoded()):
            image = Image.fromarray(upright(frame))
            _mark(image, rows.get(time, []))
            if stream is None:
                stream = output.add_stream("libx264", rate=30, options={"crf": "23", "preset": "veryfast"})
                stream.width, stream.height = image.width // 2 * 2, image.height // 2 * 2  # as H.264 has it
                stream.pix_fmt = "yuv420p"
                stream.codec_context.time_base = _TICKS
            marked = av.VideoFrame.from_ndarray(np.asarray(image.crop((0, 0, stream.width, stream.height))))
            marked.pts, marked.time_base = round(time / _TICKS), _TICKS
            output.mux(stream.encode(marked))
            if number % 32 == 0:
                shown(time, video.seconds)
        if stream is not None:
            output.mux(stream.encode())
    draft.replace(folder / ANNOTATED)


def _mark(image: Image.Image, rows: list[dict[str, Any]]) -> None:
    draw = ImageDraw.Draw(image)
    for row in rows:
        box = Box(*(row[f"face_{edge}"] for edge in Box._fields))
        colour = _COLOURS[row["state"]]
        _frame(draw, box, colour)
        half = row["eye_side"] / 2
        for eye in ("left", "right"):
            _frame(draw, Box(row[f"{eye}_x"] - half, row[f"{eye}_y"] - half, 2 * half, 2 * half), colour)
        draw.text((box.left + 3, box.top + 3), f"{row['person']} {row['state']}", fill=colour, font_size=16)


def _frame(draw: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int]) -> None:
    draw.rectangle((box.left, box.top, box.left + box.width, box.top + box.height), outline=colour, width=2)
