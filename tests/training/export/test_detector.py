"""The exported detector finds the faces that facenet-pytorch's own finds."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
from facenet_pytorch import MTCNN
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.mtcnn import DESCRIPTION, Description, FaceDetector, smallest_face
from tests.photos import collage, portrait, shrunk, without_face
from training.export.detector import MAX_PARITY, detector_card, export_detector

SHIPPED = Path("models/mtcnn")
MIN_OVERLAP = 0.85  # intersection over union
MAX_DISTANCE = 0.02  # of an eye, in widths of the face: 1 px in a face of 50


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    export_detector(models)
    return models / "mtcnn"


def description(folder: Path) -> Description:
    return Description.model_validate_json((folder / DESCRIPTION).read_bytes())


def test_the_export_equals_the_shipped_detector(exported: Path) -> None:
    made, ships = description(exported), description(SHIPPED)
    assert made.model_copy(update={"created": ships.created, "parity": ships.parity}) == ships
    assert made.parity <= MAX_PARITY
    for network, sha256 in ships.networks.items():
        assert hashlib.sha256((exported / f"{network}.onnx").read_bytes()).hexdigest() == sha256
    assert sum(path.stat().st_size for path in exported.glob("*.onnx")) < 2_100_000


def test_the_shipped_card_is_that_of_the_shipped_detector() -> None:
    assert (SHIPPED / "README.md").read_text(encoding="utf-8") == detector_card(description(SHIPPED))


def test_card_includes_the_licence_and_no_path_of_the_exporting_machine(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert "Permission is hereby granted" in card
    for path in exported.iterdir():
        assert str(Path(__file__).parents[3]).encode() not in path.read_bytes()
        assert b"site-packages" not in path.read_bytes()


PHOTOS = {
    "portrait": portrait(),
    "grey": portrait().convert("L").convert("RGB"),
    "dark": portrait().point(lambda value: round(value * 0.3)),
    "turned left": portrait().rotate(12, Image.Resampling.BICUBIC),
    "turned right": portrait().rotate(-12, Image.Resampling.BICUBIC),
    "small": shrunk(0.45),
    "large": portrait().resize((1300, 1300), Image.Resampling.BICUBIC),
    "wide": portrait().crop((100, 0, 512, 220)),
    "cut off": portrait().crop((190, 0, 512, 400)),
    "several": collage(),
    **{name: Image.fromarray(pixels) for name, pixels in without_face().items()},
}


@pytest.mark.parametrize("name", PHOTOS)
def test_finds_the_faces_that_facenet_pytorch_finds(name: str) -> None:
    photo = np.asarray(PHOTOS[name])
    faces = FaceDetector().detect(photo)
    ours = np.array([(*face.box, *face.right_eye, *face.left_eye) for face in faces]).reshape(-1, 8)
    theirs = facenet(photo)
    assert len(ours) == len(theirs)
    for face in theirs:
        overlaps = [overlap(face[:4], box[:4]) for box in ours]
        nearest = ours[int(np.argmax(overlaps))]
        assert max(overlaps) >= MIN_OVERLAP
        assert np.abs(nearest[4:] - face[4:]).max() <= MAX_DISTANCE * face[2]


def facenet(photo: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The faces by facenet-pytorch's MTCNN with the same smallest face: box and eyes, (N, 8)."""
    height, width, _ = photo.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = MTCNN(
            keep_all=True, min_face_size=smallest_face(width, height), thresholds=[0.6, 0.7, 0.95], device="cpu"
        )
        boxes, _, landmarks = detector.detect(photo, landmarks=True)
    if boxes is None:
        return np.empty((0, 8))
    # Its pixels are counted from 1.
    corners = np.clip(boxes - [1, 1, 0, 0], 0, [width, height, width, height])
    sizes = corners[:, 2:] - corners[:, :2]
    return np.concatenate([corners[:, :2], sizes, landmarks[:, :2].reshape(-1, 4)], axis=1)


def overlap(
    one: np.ndarray[tuple[int, ...], np.dtype[np.float64]], other: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> float:
    """Intersection over union of two boxes (left, top, width, height)."""
    corner = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    shared = np.prod(np.maximum(corner - np.maximum(one[:2], other[:2]), 0))
    return float(shared / (np.prod(one[2:]) + np.prod(other[2:]) - shared))
