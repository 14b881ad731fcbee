"""One face from frame to frame: it is searched for where it was, which is several times as fast as anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.mtcnn import Box, Face, FaceDetector, Point

_LONGEST: Final = 640  # pixels, to which a frame is shrunk if all of it is searched
_LONGEST_NEAR: Final = 160  # to which the surroundings of the last face are
_MARGIN: Final = 0.75  # of them, on each side of the face, per its width and height


def follow(
    detector: FaceDetector, frame: Pixels, last: Box | None, is_cancelled: Callable[[], bool] = lambda: False
) -> list[Face]:
    """The faces near the last place of one, or where there is none, in all of a frame, the largest first.

    Args:
        detector: finds the faces; of those in the whole frame that are larger than a twentieth of it.
        frame: upright RGB, uint8 (height, width, 3).
        last: where the face was in the frame before; None if there was none.
        is_cancelled: as of ``FaceDetector.detect``.
    """
    height, width, _ = frame.shape
    faces = _within(detector, frame, _around(last, width, height), _LONGEST_NEAR, is_cancelled) if last else []
    return faces or _within(detector, frame, Box(0, 0, width, height), _LONGEST, is_cancelled)


def _around(face: Box, width: int, height: int) -> Box:
    x, y = _MARGIN * face.width, _MARGIN * face.height
    left, top = max(0, int(face.left - x)), max(0, int(face.top - y))
    right, bottom = min(width, int(face.left + face.width + x)), min(height, int(face.top + face.height + y))
    return Box(left, top, max(0, right - left), max(0, bottom - top))


def _within(
    detector: FaceDetector, frame: Pixels, part: Box, longest: int, is_cancelled: Callable[[], bool]
) -> list[Face]:
    """The faces in a part of a frame, searched for at a size of at most ``longest`` pixels."""
    left, top, width, height = map(int, part)
    step = max(1.0, max(width, height) / longest)
    size = round(width / step), round(height / step)
    if min(size) < 1:
        return []
    region = Image.fromarray(frame[top : top + height, left : left + width])
    small = region.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0) if step > 1 else region
    return [_placed(face, left, top, step) for face in detector.detect(np.asarray(small), is_cancelled)]


def _placed(face: Face, left: int, top: int, step: float) -> Face:
    """A face that was found in a part of a frame, in pixels of the frame."""
    points = (face.right_eye, face.left_eye, face.nose, face.right_mouth, face.left_mouth)
    box = Box(left + face.box.left * step, top + face.box.top * step, face.box.width * step, face.box.height * step)
    return Face(box, face.confidence, *(Point(left + x * step, top + y * step) for x, y in points))
