"""From faces to eye crops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import eyestate
from eyestate.errors import CorruptImageError, UnsupportedImageError
from eyestate.faces import CROP, crop_side, find
from eyestate.images import MIN_SIDE, luma
from eyestate.mtcnn import Box, Face, FaceDetector, Point
from tests.images import encoded, orientation
from tests.photos import LEFT_EYE, RIGHT_EYE, collage, portrait, shut


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


class Pretending(FaceDetector):
    """Finds the faces it was given, in any photo."""

    def __init__(self, *faces: Face) -> None:
        self.faces = [*faces]

    def detect(self, photo: object, is_cancelled: object = None) -> list[Face]:
        return self.faces


def face(right: tuple[float, float], left: tuple[float, float], width: float = 50) -> Face:
    nose, *mouth = Point(width / 2, width / 2), Point(width / 3, width * 0.8), Point(width * 0.67, width * 0.8)
    return Face(Box(0, 0, width, width), 0.99, Point(*right), Point(*left), nose, *mouth)


def png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    return encoded(Image.fromarray(pixels), "PNG")


NOISE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


def test_crops_are_squares_around_the_eyes(detector: FaceDetector) -> None:
    found = find(detector, encoded(portrait(), "PNG"))
    (eyes,) = found.eyes
    assert (found.width, found.height) == (512, 512)
    for box, crop, eye in zip(eyes, found.crops, (RIGHT_EYE, LEFT_EYE), strict=True):
        assert box is not None
        assert crop.shape == (box.height, box.width)
        assert box.width == pytest.approx(CROP * (LEFT_EYE[0] - RIGHT_EYE[0]), abs=2)
        assert (box.left + box.width / 2, box.top + box.height / 2) == pytest.approx(eye, abs=4)
        left, top = int(box.left), int(box.top)
        pixels = np.asarray(portrait())[top : top + len(crop), left : left + len(crop)]
        np.testing.assert_array_equal(crop, luma(np.ascontiguousarray(pixels)))


def test_crops_are_what_the_model_knows(detector: FaceDetector) -> None:
    found = find(detector, encoded(collage(), "JPEG", quality=92))
    assert len(found.crops) == 8
    assert eyestate.load().score(found.crops).min() > 0.9


def test_a_shut_eye_is_told(detector: FaceDetector) -> None:
    found = find(detector, encoded(shut(portrait(), RIGHT_EYE), "PNG"))
    right, left = eyestate.load().score(found.crops).tolist()
    assert right < 0.3
    assert left > 0.9


@pytest.mark.parametrize("turn", range(1, 9))
def test_photos_are_turned_upright(detector: FaceDetector, turn: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = portrait().crop((100, 0, 400, 260))
    stored = upright.transpose(undo[turn]) if turn in undo else upright
    found = find(detector, encoded(stored, "PNG", exif=orientation(turn)))
    assert (found.width, found.height) == (300, 260)
    assert found.faces == find(detector, encoded(upright, "PNG")).faces


def test_an_eye_beyond_the_edge_is_not_cut() -> None:
    found = find(Pretending(face((-3, 40), (30, 40))), png(NOISE))
    assert [box is None for box in found.eyes[0]] == [True, False]
    assert len(found.crops) == len(found.cheeks) == 1


def test_a_crop_over_the_edge_goes_on_with_the_outermost_pixels() -> None:
    found = find(Pretending(face((2, 1), (42, 1), width=90)), png(NOISE))
    side = round(CROP * 40)
    crop, box = found.crops[0], found.eyes[0].right
    assert crop.shape == (side, side)
    assert box == Box(0, 0, 2 - side // 2 + side, 1 - side // 2 + side)
    grey = luma(NOISE)
    inside = crop[side // 2 - 1 :, side // 2 - 2 :]
    np.testing.assert_array_equal(inside, grey[: inside.shape[0], : inside.shape[1]])
    np.testing.assert_array_equal(crop[0, :5], [grey[0, 0]] * 5)


def test_a_profile_keeps_the_size_of_its_crops() -> None:
    frontal, profile = face((40, 40), (62, 40)), face((40, 40), (45, 40))
    assert crop_side(frontal) == round(CROP * 22)
    assert crop_side(profile) == round(CROP * 20)


def test_a_guess_beyond_the_edge_does_not_stretch_the_crops() -> None:
    assert crop_side(face((-90, 40), (30, 40), width=60)) == round(CROP * 0.45 * 60)


@settings(deadline=None)
@given(
    right=st.tuples(st.floats(-30, 150), st.floats(-30, 120)),
    left=st.tuples(st.floats(-30, 150), st.floats(-30, 120)),
    width=st.floats(0, 120),
)
def test_any_eyes_give_boxes_in_the_photo_and_square_crops(
    right: tuple[float, float], left: tuple[float, float], width: float
) -> None:
    found = find(Pretending(face(right, left, width)), PHOTO)
    boxes = [box for box in found.eyes[0] if box is not None]
    assert len(boxes) == len(found.crops)
    for box, crop in zip(boxes, found.crops, strict=True):
        assert crop.shape[0] == crop.shape[1] >= MIN_SIDE
        assert 0 <= box.left < box.left + box.width <= 120
        assert 0 <= box.top < box.top + box.height <= 90
        assert all(float(side).is_integer() for side in box)


PHOTO = png(NOISE)


def test_cheeks_are_as_bright_as_the_skin(detector: FaceDetector) -> None:
    """Also below glasses: a dark band across the upper part of the cheeks is no skin."""
    photo = np.array(portrait())
    assert find(detector, png(photo)).cheeks == pytest.approx([196, 199], abs=12)
    photo[116:122, 180:270] = 20
    assert find(detector, png(photo)).cheeks == pytest.approx([196, 199], abs=12)


def test_what_is_no_photo(detector: FaceDetector) -> None:
    with pytest.raises(UnsupportedImageError):
        find(detector, b"no photo")
    with pytest.raises(CorruptImageError):
        find(detector, encoded(portrait(), "JPEG")[:9_000])
