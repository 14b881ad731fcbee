"""A face from frame to frame."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.mtcnn import Box, Face, FaceDetector
from eyestate.tracking import follow
from tests.photos import portrait


def frame(at: tuple[int, int], size: tuple[int, int] = (1280, 720)) -> Pixels:
    """The portrait in a larger picture."""
    canvas = Image.new("RGB", size, (90, 110, 130))
    canvas.paste(portrait(), at)
    return np.asarray(canvas)


class Counting(FaceDetector):
    """Counts the pixels that are searched."""

    searched = 0

    def detect(self, photo: Pixels, *arguments: object) -> list[Face]:
        self.searched += photo.shape[0] * photo.shape[1]
        return super().detect(photo, *arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def detector() -> Counting:
    return Counting()


def apart(one: Face, other: Face) -> float:
    """The larger distance of the eyes of two faces, relative to the distance between the eyes."""
    eyes = math.dist(one.right_eye, one.left_eye)
    return max(math.dist(one.right_eye, other.right_eye), math.dist(one.left_eye, other.left_eye)) / eyes


def test_a_face_that_moves_a_little_is_found_where_it_was(detector: Counting) -> None:
    (first,) = follow(detector, frame((300, 100)), None)
    whole, detector.searched = detector.searched, 0
    (near,) = follow(detector, frame((320, 90)), first.box)
    assert detector.searched < whole / 5
    (anywhere,) = follow(detector, frame((320, 90)), None)
    assert apart(near, anywhere) < 0.1


def test_one_that_is_lost_is_found_again(detector: Counting) -> None:
    pixels = frame((700, 100))
    (anywhere,) = follow(detector, pixels, None)
    for last in (Box(10, 10, 60, 80), Box(0, 0, 0, 0), Box(5_000, 5_000, 9, 9), Box(-90, -90, 9, 9)):
        assert follow(detector, pixels, last) == [anywhere]


def test_without_a_face() -> None:
    assert follow(FaceDetector(), np.full((90, 400, 3), 120, np.uint8), Box(0, 0, 90, 90)) == []
