"""Photo to eye crops: finds the faces, and cuts a square around each eye, framed as in the training crops.

The framing was determined by comparing eyes, cut from five portraits at sides of 0.4 to 1.2 times the distance between
the eyes, with the mean of the unlabelled crops that people call open: the similarity peaks at 0.6 to 0.65, and the
scores of ``final_best`` hardly change from 0.5 to 0.8. Rotating the crop with the head does not improve them, up to the
30 degrees at which faces are found (docs/faces.md has the figures). So crops are upright squares at full resolution.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from eyestate.arrays import Pixels
from eyestate.images import MIN_SIDE, decode_rgb, luma
from eyestate.mtcnn import Box, Face, FaceDetector, Point, clipped

CROP: Final = 0.65  # side of a crop, relative to the distance between the eyes
_LEAST_DISTANCE: Final = 0.4  # of the eyes, per width of the face: 0.43 to 0.49 from the front, less in profile
_MOST_DISTANCE: Final = 0.45  # per height: 0.31 to 0.39 from the front, more if an eye outside the photo is guessed
_CHEEKS: Final = (0.6, 0.8)  # on the way from an eye to the corner of the mouth: below glasses, above a beard
_CHEEK: Final = 0.2  # side of what is looked at there, relative to the distance between the eyes


class Eyes(NamedTuple):
    """The squares cut around the eyes of a face, clipped to the photo.

    ``right`` and ``left`` are the person's own; None if the centre of that eye is outside the photo.
    """

    right: Box | None
    left: Box | None


@dataclass(frozen=True, slots=True)
class Found:
    """The faces and eyes in a photo.

    Attributes:
        width, height: of the upright photo in pixels.
        faces: largest first.
        eyes: of each face.
        crops: of each eye in the photo, face by face, right before left: grey, uint8 (side, side), at least
            ``MIN_SIDE`` pixels; beyond the edge of the photo its outermost pixels are repeated.
        cheeks: how bright the skin below each of these eyes is, as grey value, 0 to 255.
        decoding, detecting: seconds that each step took.
    """

    width: int
    height: int
    faces: list[Face]
    eyes: list[Eyes]
    crops: list[Pixels]
    cheeks: list[float]
    decoding: float
    detecting: float


def find(detector: FaceDetector, photo: bytes, is_cancelled: Callable[[], bool] = lambda: False) -> Found:
    """Find the faces and eyes in an encoded photo.

    Args:
        detector: finds the faces.
        photo: JPEG, PNG, WebP or BMP.
        is_cancelled: as of ``FaceDetector.detect``.

    Raises:
        ImageError: it cannot be decoded; the subclasses say why.
    """
    started = time.perf_counter()
    pixels = decode_rgb(photo)
    decoded = time.perf_counter()
    faces = detector.detect(pixels, is_cancelled)
    return cut(pixels, faces, decoded - started, time.perf_counter() - decoded)


def cut(pixels: Pixels, faces: list[Face], decoding: float = 0.0, detecting: float = 0.0) -> Found:
    """Cut the eyes of faces out of a photo.

    Args:
        pixels: of the upright photo, RGB, uint8 (height, width, 3).
        faces: in it.
        decoding, detecting: seconds that each took.
    """
    height, width, _ = pixels.shape
    eyes: list[Eyes] = []
    crops: list[Pixels] = []
    cheeks: list[float] = []
    for face in faces:
        side = crop_side(face)
        boxes: list[Box | None] = []
        for eye, mouth in ((face.right_eye, face.right_mouth), (face.left_eye, face.left_mouth)):
            if 0 <= eye.x < width and 0 <= eye.y < height:
                corner = _corner(eye, side)
                boxes.append(clipped((*corner, corner.x + side, corner.y + side), width, height))
                crops.append(_cut(pixels, corner, side))
                cheeks.append(_cheek(pixels, eye, mouth, max(1, round(_CHEEK * side / CROP))))
            else:
                boxes.append(None)
        eyes.append(Eyes(*boxes))
    return Found(width, height, faces, eyes, crops, cheeks, decoding, detecting)


def crop_side(face: Face) -> int:
    """Width and height in pixels of the crops of a face's eyes."""
    distance = max(math.dist(face.right_eye, face.left_eye), _LEAST_DISTANCE * face.box.width)
    return max(MIN_SIDE, round(CROP * min(distance, _MOST_DISTANCE * face.box.height)))


def _corner(middle: Point, side: int) -> Point:
    """The left upper corner of a square of whole pixels."""
    return Point(round(middle.x - side / 2), round(middle.y - side / 2))


def _cheek(photo: Pixels, eye: Point, mouth: Point, side: int) -> float:
    """The grey value of the skin below an eye, where it is brightest: a frame or a beard may cover some of it."""
    places = [Point(eye.x + way * (mouth.x - eye.x), eye.y + way * (mouth.y - eye.y)) for way in _CHEEKS]
    return max(float(np.median(_cut(photo, _corner(place, side), side))) for place in places)


def _cut(photo: Pixels, corner: Point, side: int) -> Pixels:
    """A square of an RGB photo, as grey; beyond the edge of the photo its outermost pixels are repeated."""
    height, width, _ = photo.shape
    rows = np.clip(np.arange(side) + int(corner.y), 0, height - 1)
    columns = np.clip(np.arange(side) + int(corner.x), 0, width - 1)
    return luma(photo[rows[:, np.newaxis], columns])
