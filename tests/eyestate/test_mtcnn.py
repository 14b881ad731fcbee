"""The detector: what it finds in real photos, and the arithmetic of boxes in any."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.bundle import models_dir
from eyestate.errors import DetectorError
from eyestate.images import MAX_SIDE
from eyestate.mtcnn import (
    FACES_ALONG,
    MAX_FACES,
    MIN_FACE,
    Face,
    FaceDetector,
    Floats,
    Network,
    clipped,
    scales,
    smallest_face,
    suppress,
)
from tests.photos import BOX, LEFT_EYE, RIGHT_EYE, collage, portrait, shrunk, without_face

PROJECT = Path(__file__).parents[2]
MEMORY = """
import numpy as np, psutil
from eyestate.mtcnn import FaceDetector

def used():
    return psutil.Process().memory_info().rss // 2**20

detector = FaceDetector()
before = used()
detector.detect(np.zeros((2_048, 2_048, 3), np.uint8))
grown = used() - before
detector.return_memory()
print(grown, used() - before)
"""
NEAR = 0.05  # widths of the face


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


def found(detector: FaceDetector, photo: Image.Image) -> list[Face]:
    return detector.detect(np.asarray(photo))


def assert_portrait(face: Face, scale: float) -> None:
    """The face and the eyes of the portrait at a share of its size."""
    near = NEAR * BOX[2] * scale
    assert face.right_eye == pytest.approx(np.multiply(RIGHT_EYE, scale), abs=near)
    assert face.left_eye == pytest.approx(np.multiply(LEFT_EYE, scale), abs=near)
    assert face.box == pytest.approx(np.multiply(BOX, scale), abs=2 * near)
    assert 0.95 < face.confidence <= 1


# Photos


@pytest.mark.parametrize("scale", [0.5, 1, 2, 4], ids=lambda scale: f"{512 * scale:g} px")
def test_a_portrait_of_any_size(detector: FaceDetector, scale: float) -> None:
    photo = portrait().resize((round(512 * scale),) * 2, Image.Resampling.BICUBIC)
    (face,) = found(detector, photo)
    assert_portrait(face, scale)


def test_grey_and_dark(detector: FaceDetector) -> None:
    for photo in (portrait().convert("L").convert("RGB"), portrait().point(lambda value: round(value * 0.3))):
        (face,) = found(detector, photo)
        assert_portrait(face, 1)


@pytest.mark.parametrize("angle", [-25, -10, 10, 25])
def test_a_head_that_leans(detector: FaceDetector, angle: int) -> None:
    (face,) = found(detector, portrait().rotate(angle, Image.Resampling.BICUBIC, center=RIGHT_EYE))
    assert face.right_eye == pytest.approx(RIGHT_EYE, abs=NEAR * BOX[2])
    dx, dy = np.subtract(face.left_eye, face.right_eye)
    assert np.degrees(np.arctan2(dy, dx)) == pytest.approx(-angle, abs=5)


def test_several_faces_largest_first(detector: FaceDetector) -> None:
    faces = found(detector, collage())
    assert len(faces) == 4
    areas = [face.box.width * face.box.height for face in faces]
    assert areas == sorted(areas, reverse=True)
    assert all(face.right_eye.x < face.left_eye.x for face in faces)


def test_a_mirrored_photo_has_the_eyes_the_other_way_round(detector: FaceDetector) -> None:
    (face,) = found(detector, portrait().transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert face.right_eye == pytest.approx((511 - LEFT_EYE[0], LEFT_EYE[1]), abs=NEAR * BOX[2])


@pytest.mark.parametrize("name", without_face())
def test_no_face(detector: FaceDetector, name: str) -> None:
    assert detector.detect(without_face()[name]) == []


def test_a_face_too_small_to_judge_is_not_looked_for(detector: FaceDetector) -> None:
    assert found(detector, shrunk(0.2)) == []  # it is 18 px wide


@pytest.mark.parametrize("size", [(8, 8), (8, 4096), (4096, 8), (31, 900), (32, 32), (33, 47)], ids=str)
def test_any_shape(detector: FaceDetector, size: tuple[int, int]) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    assert isinstance(detector.detect(photo), list)


@pytest.mark.parametrize("steps", [0, 1, 4, 7])
def test_a_search_that_nobody_waits_for_ends_with_its_step(
    detector: FaceDetector, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[str] = []
    original = FaceDetector._run

    def counted(self: FaceDetector, network: Network, patches: Pixels) -> list[Floats]:
        run.append(network)
        return original(self, network, patches)

    monkeypatch.setattr(FaceDetector, "_run", counted)
    photo = np.asarray(portrait())
    assert detector.detect(photo, lambda: len(run) >= steps) == []
    assert len(run) == steps < len(scales(512, 512)) + 2


def test_no_more_faces_than_the_limit(detector: FaceDetector) -> None:
    head = portrait().crop((150, 30, 300, 200)).resize((60, 68), Image.Resampling.BOX)
    crowd = Image.new("RGB", (720, 720))
    for place in range(120):
        crowd.paste(head, (place % 12 * 60, place // 12 * 72))
    assert len(found(detector, crowd)) == MAX_FACES


def test_the_largest_photo_costs_little(detector: FaceDetector) -> None:
    """Noise of 4,096 pixels a side, and textures with as many candidates as there can be."""
    noise = np.random.default_rng(2).integers(0, 256, (MAX_SIDE, MAX_SIDE, 3), np.uint8)
    stripes = np.tile(np.asarray(shrunk(0.25)), (32, 32, 1))
    for photo in (noise, stripes):
        started = time.thread_time()
        detector.detect(photo)
        assert time.thread_time() - started < 5


# Files


def test_no_detector(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match="there is no face detector in"):
        FaceDetector(tmp_path / "mtcnn")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("onet.onnx", None, "onet.onnx is missing"),
        ("rnet.onnx", b"damaged", "rnet.onnx is damaged"),
        ("detector.json", b"{", "does not fit this version"),
        ("detector.json", None, "there is no face detector"),
    ],
)
def test_damaged_detector(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    folder = shutil.copytree(models_dir() / "mtcnn", tmp_path / "mtcnn")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(DetectorError, match=message):
        FaceDetector(folder)


# Boxes


@given(width=st.integers(8, MAX_SIDE), height=st.integers(8, MAX_SIDE))
def test_the_pyramid_is_bounded(width: int, height: int) -> None:
    levels = scales(width, height)
    assert levels == sorted(levels, reverse=True)
    assert all(min(width, height) * scale >= 12 for scale in levels)
    assert smallest_face(width, height) >= MIN_FACE
    assert all(max(width, height) * scale <= 12 * FACES_ALONG + 1e-6 for scale in levels)
    assert bool(levels) == (min(width, height) >= smallest_face(width, height))


coordinates = st.integers(-50, 50)
corners = st.tuples(coordinates, coordinates, st.integers(0, 60), st.integers(0, 60))
candidates = st.lists(st.tuples(corners, st.floats(0, 1, width=32)), max_size=30)


def arrays(found: list[tuple[tuple[int, int, int, int], float]]) -> tuple[Floats, Floats]:
    boxes = np.array([(x, y, x + w, y + h) for (x, y, w, h), _ in found], np.float32).reshape(-1, 4)
    return boxes, np.array([score for _, score in found], np.float32)


def shared(one: Floats, other: Floats) -> float:
    width, height = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    return float(max(width, 0) * max(height, 0))


def area(box: Floats) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


@settings(deadline=None)
@given(found=candidates, overlap=st.sampled_from([0.3, 0.5, 0.7]), by_smaller=st.booleans())
def test_suppression(found: list[tuple[tuple[int, int, int, int], float]], overlap: float, by_smaller: bool) -> None:
    """What is kept does not overlap; what goes overlaps something better that is kept; the best one stays."""
    boxes, scores = arrays(found)
    kept = suppress(boxes, scores, overlap, by_smaller=by_smaller)
    assert len(set(kept.tolist())) == len(kept)
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)
    if found:
        assert scores[kept[0]] == scores.max()

    def same(one: int, other: int) -> bool:
        both = shared(boxes[one], boxes[other])
        areas = area(boxes[one]), area(boxes[other])
        return both > overlap * (min(areas) if by_smaller else sum(areas) - both)

    kept_set = set(kept.tolist())
    assert not any(same(one, other) for one in kept_set for other in kept_set if one != other)
    for gone in set(range(len(boxes))) - kept_set:
        assert any(same(gone, better) and scores[better] >= scores[gone] for better in kept_set)


@given(found=candidates, at_most=st.integers(0, 10))
def test_suppression_of_the_best_only(found: list[tuple[tuple[int, int, int, int], float]], at_most: int) -> None:
    boxes, scores = arrays(found)
    kept = suppress(boxes, scores, 0.5, at_most=at_most)
    best = np.argsort(-scores, kind="stable")[:at_most]
    assert kept.tolist() == best[suppress(boxes[best], scores[best], 0.5)].tolist()


@given(corners=st.tuples(*[st.floats(-1e4, 1e4)] * 4), width=st.integers(8, 4096), height=st.integers(8, 4096))
def test_clipped_boxes_lie_in_the_photo(corners: tuple[float, ...], width: int, height: int) -> None:
    left, right = sorted(corners[::2])
    top, bottom = sorted(corners[1::2])
    box = clipped((left, top, right, bottom), width, height)
    assert 0 <= box.left <= box.left + box.width <= width + 1e-6
    assert 0 <= box.top <= box.top + box.height <= height + 1e-6
    assert box.width >= 0
    assert box.height >= 0


def test_the_memory_of_the_largest_photo_is_returned() -> None:
    """In another process, of which nothing else has grown."""
    grown, kept = map(int, subprocess.check_output([sys.executable, "-c", MEMORY], cwd=PROJECT).split())
    assert grown > 32
    assert kept < grown - 32
