"""Photo to faces: MTCNN (Zhang et al., "Joint Face Detection and Alignment using Multitask Cascaded Convolutional
Networks", 2016) on ONNX Runtime and numpy.

Three networks look one after the other: P-Net at every place of the photo and at many sizes, R-Net at what P-Net
proposes, O-Net at what R-Net leaves. Each refines the boxes, and O-Net tells where the eyes are. The weights are those
of facenet-pytorch; ``python -m training export-detector`` makes ``models/mtcnn`` of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eyestate.arrays import Pixels
from eyestate.bundle import Sha256, models_dir
from eyestate.errors import DetectorError
from eyestate.execution import open_session, returning_memory
from eyestate.extras import extra

with extra("cpu"):
    from onnxruntime import RunOptions

FOLDER: Final = "mtcnn"
DESCRIPTION: Final = "detector.json"  # a folder with a manifest.json is a bundle, which scores crops
MAX_FACES: Final = 64  # of a photo: the largest
MIN_FACE: Final = 32  # pixels of the longer side; in smaller faces the eyes have too few pixels to be classified
FACES_ALONG: Final = (
    48  # of the smallest faces as many fit along the longest side, which bounds the work on a large photo
)

# As in facenet-pytorch, but for the last: what else was taken for a face had 0.74 to 0.95 (docs/faces.md).
_P_NET_CONFIDENCE: Final = 0.6
_R_NET_CONFIDENCE: Final = 0.7
_O_NET_CONFIDENCE: Final = 0.95
_SHRINKAGE: Final = 0.709  # from one level of the pyramid to the next: half the area
_CELL: Final = 12  # pixels: what P-Net sees at a time
_STRIDE: Final = 2  # pixels from one cell to the next
_R_NET_SIDE: Final = 24
_O_NET_SIDE: Final = 48
_BATCH: Final = 64  # patches per inference of R-Net and O-Net, for more only take memory
# No photo, however contrived, may have more candidates: the most promising ones are kept.
_MAX_PER_LEVEL: Final = 2_000
_MAX_PROPOSED: Final = 1_024
_MAX_REFINED: Final = 256

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
Network = Literal["pnet", "rnet", "onet"]


class Point(NamedTuple):
    """A place in a photo, in pixels from its left upper corner."""

    x: float
    y: float


class Box(NamedTuple):
    """A rectangle in a photo, in pixels from its left upper corner."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Face:
    """A face in a photo.

    Attributes:
        box: from the forehead to the chin, within the photo.
        confidence: of the detector that this is a face, 0.95 to 1.
        right_eye, left_eye: the middle of the person's own right and left eye; in a photo that is not mirrored the
            right eye is on the left.
        nose: its tip.
        right_mouth, left_mouth: the corners of the mouth, the person's own.
    """

    box: Box
    confidence: float
    right_eye: Point
    left_eye: Point
    nose: Point
    right_mouth: Point
    left_mouth: Point


class Description(BaseModel):
    """``detector.json``: what the networks of the detector are and where they come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    name: str
    version: str
    created: datetime
    source: str
    licence: str
    networks: dict[Network, Sha256]
    weights: dict[Network, Sha256]
    parity: Annotated[float, Field(description="largest difference of an output of ONNX Runtime and PyTorch")]


class FaceDetector:
    """Finds faces in photos, one thread a photo. Safe to call from several threads at a time."""

    def __init__(self, folder: Path | None = None) -> None:
        """Load and verify the networks.

        Args:
            folder: of the detector; ``mtcnn`` among the models where it is None.

        Raises:
            DetectorError: a file is missing or damaged.
        """
        folder = folder or models_dir() / FOLDER
        self.description = _described(folder)
        paths = {network: folder / f"{network}.onnx" for network in self.description.networks}
        try:
            for network, path in paths.items():
                if hashlib.sha256(path.read_bytes()).hexdigest() != self.description.networks[network]:
                    raise DetectorError(f"{path} is damaged or not of this detector; restore it")
            # They are so small that another device or thread would cost more than it saves.
            self._sessions = {network: open_session(path, "cpu", 1)[0] for network, path in paths.items()}
        except FileNotFoundError as error:
            raise DetectorError(f"the face detector is incomplete: {error.filename} is missing") from None

    def detect(self, photo: Pixels, is_cancelled: Callable[[], bool] = lambda: False) -> list[Face]:
        """The faces in a photo, largest first, at most ``MAX_FACES``.

        The search covers faces from ``smallest_face`` pixels; smaller ones may be found too, down to ``MIN_FACE``.
        Heads tilted by more than about 30 degrees may be missed.

        Args:
            photo: upright RGB, uint8 (height, width, 3).
            is_cancelled: asked after each step whether the faces are still wanted; where not, none are found.
        """
        shrunk = _Shrunk(photo)
        boxes = self._proposed(shrunk, is_cancelled)
        boxes = self._refined(shrunk, boxes) if len(boxes) and not is_cancelled() else boxes[:0]
        faces = self._decided(shrunk, boxes) if len(boxes) and not is_cancelled() else []
        large = [face for face in faces if max(face.box.width, face.box.height) >= MIN_FACE]
        return sorted(large, key=lambda face: face.box.width * face.box.height, reverse=True)[:MAX_FACES]

    def follow(self, frame: Pixels, faces: Sequence[Face]) -> list[Face | None]:
        """Where the faces of the frame before are in this one of a video: O-Net alone, at their last places.

        Args:
            frame: upright RGB, uint8 (height, width, 3).
            faces: that were found in the frame before.

        Returns:
            For each, the face that is there now; None if there is none.
        """
        if not faces:
            return []
        corners = [(x, y, x + width, y + height) for x, y, width, height in (face.box for face in faces)]
        found, _, confidence = self._examined(_Shrunk(frame), _squared(np.array(corners, np.float32)))
        return [
            face if sure > _O_NET_CONFIDENCE and max(face.box.width, face.box.height) >= MIN_FACE else None
            for face, sure in zip(found, confidence, strict=True)
        ]

    def return_memory(self) -> None:
        """Give back to the system what ONNX Runtime keeps of the largest photos, up to 90 MiB, for the next ones."""
        sides: dict[Network, int] = {"pnet": _CELL, "rnet": _R_NET_SIDE, "onet": _O_NET_SIDE}
        for network, side in sides.items():
            self._run(network, np.zeros((1, side, side, 3), np.uint8), returning_memory())

    def _proposed(self, shrunk: _Shrunk, is_cancelled: Callable[[], bool]) -> Floats:
        """P-Net's candidates: square boxes with a part in the photo, float32 (N, 4)."""
        boxes, scores = [np.empty((0, 4), np.float32)], [np.empty(0, np.float32)]
        for scale in scales(shrunk.width, shrunk.height):
            if is_cancelled():
                break
            size = int(shrunk.width * scale + 1), int(shrunk.height * scale + 1)
            level = shrunk.patch((0, 0, shrunk.width, shrunk.height), size)
            confidence, offsets = self._run("pnet", level[np.newaxis])
            rows, columns = np.nonzero(confidence[0] >= _P_NET_CONFIDENCE)
            found = confidence[0, rows, columns]
            corners = np.stack([columns, rows], axis=1) * _STRIDE
            cells = (np.concatenate([corners, corners + _CELL], axis=1) / scale).astype(np.float32)
            moved = _moved(cells, offsets[0][:, rows, columns].T)
            kept = suppress(cells, found, 0.5, at_most=_MAX_PER_LEVEL)
            boxes.append(moved[kept])
            scores.append(found[kept])
        every, every_score = np.concatenate(boxes), np.concatenate(scores)
        return shrunk.visible(_squared(every[suppress(every, every_score, 0.7)[:_MAX_PROPOSED]]))

    def _refined(self, shrunk: _Shrunk, boxes: Floats) -> Floats:
        """The candidates that R-Net accepts, moved by its offsets: square boxes, float32 (N, 4)."""
        confidence, offsets = self._run("rnet", shrunk.patches(boxes, _R_NET_SIDE))
        likely = confidence > _R_NET_CONFIDENCE
        boxes, confidence, offsets = boxes[likely], confidence[likely], offsets[likely]
        kept = suppress(boxes, confidence, 0.7)[:_MAX_REFINED]
        return shrunk.visible(_squared(_moved(boxes[kept], offsets[kept])))

    def _decided(self, shrunk: _Shrunk, boxes: Floats) -> list[Face]:
        """The faces that O-Net accepts."""
        faces, boxes, confidence = self._examined(shrunk, boxes)
        (likely,) = np.nonzero(confidence > _O_NET_CONFIDENCE)
        return [faces[likely[i]] for i in suppress(boxes[likely], confidence[likely], 0.7, by_smaller=True)]

    def _examined(self, shrunk: _Shrunk, boxes: Floats) -> tuple[list[Face], Floats, Floats]:
        """What O-Net sees in each box: a face with its landmarks, its box before it is clipped, and the confidence."""
        confidence, offsets, landmarks = self._run("onet", shrunk.patches(boxes, _O_NET_SIDE))
        sizes = boxes[:, 2:] - boxes[:, :2]
        xs = boxes[:, :1] + sizes[:, :1] * landmarks[:, :5]  # of eyes, nose and corners of the mouth
        ys = boxes[:, 1:2] + sizes[:, 1:] * landmarks[:, 5:]
        boxes = _moved(boxes, offsets)
        faces = [
            Face(
                clipped(boxes[face].tolist(), shrunk.width, shrunk.height),
                float(confidence[face]),
                *(Point(*place) for place in zip(xs[face].tolist(), ys[face].tolist(), strict=True)),
            )
            for face in range(len(boxes))
        ]
        return faces, boxes, confidence

    def _run(self, network: Network, patches: Pixels, options: RunOptions | None = None) -> list[Floats]:
        """The outputs of a network: confidence (N, …), offsets (N, 4, …), and O-Net's landmarks (N, 10)."""
        session = self._sessions[network]
        name = session.get_inputs()[0].name
        batches = [session.run(None, {name: patches[i : i + _BATCH]}, options) for i in range(0, len(patches), _BATCH)]
        return [np.concatenate(output) for output in zip(*batches, strict=True)]


def scales(width: int, height: int) -> list[float]:
    """The scale of each level of the image pyramid; at the first, the smallest faces fill P-Net's cell."""
    scale = _CELL / smallest_face(width, height)
    levels = []
    while min(width, height) * scale >= _CELL:
        levels.append(scale)
        scale *= _SHRINKAGE
    return levels


def smallest_face(width: int, height: int) -> float:
    """The side in pixels of the smallest faces that are searched for in a photo of ``width``×``height`` pixels."""
    return max(MIN_FACE, max(width, height) / FACES_ALONG)


def suppress(
    boxes: Floats, scores: Floats, overlap: float, *, by_smaller: bool = False, at_most: int | None = None
) -> Indices:
    """Non-maximum suppression: keeps the best of overlapping boxes.

    Args:
        boxes: float32 (N, 4): left, top, right, bottom.
        scores: float32 (N,).
        overlap: largest intersection over union with a better box at which a box is kept.
        by_smaller: divide by the area of the smaller box instead, which also removes boxes inside others.
        at_most: number of candidates to consider, best first.

    Returns:
        The indices of the kept boxes, best first.
    """
    left = np.argsort(-scores, kind="stable")[:at_most]
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    kept = []
    while len(left):
        best, others = left[0], left[1:]
        kept.append(best)
        corner = np.minimum(boxes[best, 2:], boxes[others, 2:])
        shared = np.prod(np.maximum(corner - np.maximum(boxes[best, :2], boxes[others, :2]), 0), axis=1)
        whole = np.minimum(areas[best], areas[others]) if by_smaller else areas[best] + areas[others] - shared
        left = others[shared <= overlap * whole]
    return np.array(kept, np.intp)


def clipped(corners: Sequence[float], width: int, height: int) -> Box:
    """The part of a box (left, top, right, bottom) inside a photo of ``width``×``height`` pixels."""
    left, right = (min(max(x, 0.0), float(width)) for x in corners[::2])
    top, bottom = (min(max(y, 0.0), float(height)) for y in corners[1::2])
    return Box(left, top, right - left, bottom - top)


class _Shrunk:
    """A photo at full size, half, a quarter and so on, each made when first needed, so that patches are cheap."""

    def __init__(self, photo: Pixels) -> None:
        self.height, self.width, _ = photo.shape
        self._halvings = [Image.fromarray(photo)]

    def visible(self, boxes: Floats) -> Floats:
        """The boxes that overlap the photo."""
        left, top, right, bottom = self._clipped(boxes).T
        seen: Floats = boxes[(left < right) & (top < bottom)]
        return seen

    def patches(self, boxes: Floats, side: int) -> Pixels:
        """The content of each box, clipped to the photo and scaled: uint8 (N, side, side, 3)."""
        patches = [self.patch(box, (side, side)) for box in self._clipped(boxes).tolist()]
        return np.stack(patches) if patches else np.empty((0, side, side, 3), np.uint8)

    def patch(self, box: Sequence[int], size: tuple[int, int]) -> Pixels:
        """The content of a box, averaged to ``size`` (width, height): uint8 (height, width, 3)."""
        left, top, right, bottom = box
        spare = min((right - left) / size[0], (bottom - top) / size[1])
        halvings = max(0, math.floor(math.log2(spare)) - 1)  # at least twice the size is left to average over
        while len(self._halvings) <= halvings:
            self._halvings.append(self._halvings[-1].reduce(2))
        part = tuple(edge / 2**halvings for edge in box)
        return np.asarray(self._halvings[halvings].resize(size, Image.Resampling.BOX, box=part))

    def _clipped(self, boxes: Floats) -> npt.NDArray[np.int64]:
        whole = np.floor(boxes).astype(np.int64)
        return np.clip(whole, 0, [self.width, self.height, self.width, self.height])


def _described(folder: Path) -> Description:
    try:
        return Description.model_validate_json((folder / DESCRIPTION).read_bytes())
    except FileNotFoundError:
        raise DetectorError(f"there is no face detector in {folder}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise DetectorError(f"{folder / DESCRIPTION} does not fit this version: {where}: {fault['msg']}") from None


def _moved(boxes: Floats, offsets: Floats) -> Floats:
    """Boxes (N, 4) with each edge moved by its share of the width or height."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    moved: Floats = boxes + offsets * np.tile(sizes, 2)
    return moved


def _squared(boxes: Floats) -> Floats:
    """The squares around the same middle that hold the boxes (N, 4)."""
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    halves = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True, initial=0) / 2
    return np.concatenate([middles - halves, middles + halves], axis=1)
