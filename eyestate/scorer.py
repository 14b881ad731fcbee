"""Pixels to scores: one ONNX Runtime session for a network, two for a cascade."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from eyestate.arrays import Pixels, Scores
from eyestate.bundle import Bundle, Card, CascadeBundle, CascadeManifest, Manifest, State, load_model
from eyestate.engine import Engine
from eyestate.errors import ImageError
from eyestate.execution import cores
from eyestate.images import check_size, decode, luma, read, shrunk, to_inputs
from eyestate.settings import Device, device_from_environment

BATCH: Final = 256  # crops prepared at a time, which bounds the memory; more if an inference takes more
# Where a tenth of the crops is deferred, to a network that costs seventy times as much, the small network of a cascade
# has an eighth of the work. More threads of OpenVINO's would spin between its inferences, as long as a request takes.
_SMALL_THREADS: Final = 1 / 8
_STATES: Final[tuple[State, ...]] = ("open", "closed", "uncertain")


class Scorer(ABC):
    """Scores eye crops with one model. Safe to call from several threads.

    Attributes:
        manifest: of the model.
        device: what computes, with its precision.
        deferred: crops so far that a cascade deferred to its large network.
        resizes: whether ``run`` takes crops of other sizes than its input's too.
        side: width and height in pixels of the input of ``run``.
    """

    manifest: Card
    device: str
    side: int
    deferred: int = 0
    resizes: bool = False

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Crops of the largest inference."""

    @property
    @abstractmethod
    def seconds_per_crop(self) -> float:
        """Of such an inference, as measured when the network was opened."""

    @property
    @abstractmethod
    def seconds_alone(self) -> float:
        """Of an inference of one crop, measured then, too."""

    @abstractmethod
    def run(self, batch: Pixels) -> Scores:
        """P(open) of one batch, uint8 (N, side, side): float32 (N,)."""

    def score(self, crops: Sequence[Pixels | bytes | str | Path] | npt.NDArray[np.uint8]) -> Scores:
        """P(open) of each crop.

        Args:
            crops: any number of crops, each an encoded image (bytes), the path of one, or a uint8 array: (height,
                width) grey or (height, width, 3) RGB, 8 to 4,096 pixels a side. One array (N, height, width) or
                (N, height, width, 3) is N crops.

        Returns:
            float32 (N,), 0 (closed) to 1 (open).

        Raises:
            ImageError: a crop cannot be read; nothing is scored then.
            TypeError, ValueError: an array that holds no crop.
        """
        return self._score([shrunk(_pixels(crop), self.side) for crop in crops])

    def score_each(self, crops: Sequence[bytes | str | Path]) -> list[float | ImageError]:
        """As ``score``, but crops that cannot be read get their error instead of a score."""
        read = [self._crop_or_error(crop) for crop in crops]
        scores = iter(self._score([crop for crop in read if not isinstance(crop, ImageError)]).tolist())
        return [crop if isinstance(crop, ImageError) else next(scores) for crop in read]

    def score_parts(self, parts: Sequence[Pixels]) -> Scores:
        """P(open) of all crops of all parts.

        Args:
            parts: grey crops of one size each, uint8 (n, height, width).

        Returns:
            float32 (sum of n,).
        """
        if len(parts) > 1 and len({part.shape[1:] for part in parts}) == 1:
            parts = [np.concatenate(parts)]
        if self.resizes and len(parts) == 1:
            return self.run(parts[0])
        inputs = [to_inputs(part, self.side) for part in parts]
        return self.run(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))

    def states(self, scores: Scores) -> list[State]:
        """The state of each score, float32 (N,)."""
        thresholds = self.manifest.thresholds
        places = np.where(scores >= thresholds.open, 0, np.where(scores <= thresholds.closed, 1, 2))
        return [_STATES[place] for place in places.tolist()]

    def state(self, score: float) -> State:
        """The state of a score under the manifest's thresholds."""
        if score >= self.manifest.thresholds.open:
            return "open"
        if score <= self.manifest.thresholds.closed:
            return "closed"
        return "uncertain"

    def _crop_or_error(self, crop: bytes | str | Path) -> Pixels | ImageError:
        try:
            return shrunk(_pixels(crop), self.side)
        except ImageError as error:
            return error

    def _score(self, crops: Sequence[Pixels]) -> Scores:
        together = max(BATCH, self.batch_size)
        starts = range(0, len(crops), together)
        batches = [self.score_parts([crop[np.newaxis] for crop in crops[i : i + together]]) for i in starts]
        return np.concatenate(batches) if batches else np.empty(0, np.float32)


class Network(Scorer):
    """One network."""

    manifest: Manifest

    def __init__(self, bundle: Bundle, device: Device | None = None, threads: int | None = None) -> None:
        """Load the bundle's network.

        Args:
            bundle: what to load.
            device: what computes; ``$EYESTATE_DEVICE``, else the best there is, where it is None.
            threads: CPU threads of one inference; as many as there are cores where it is None.

        Raises:
            BundleError: ONNX Runtime cannot read it, or its input or output is not what the manifest says.
            SettingError: ``$EYESTATE_DEVICE`` is needed and names no device.
        """
        self.manifest = bundle.manifest
        self.side = self.manifest.input.side
        self._engine = Engine(bundle, device or device_from_environment(), threads)
        self.device = self._engine.device
        self.resizes = self._engine.resizes

    @property
    def batch_size(self) -> int:
        return self._engine.sizes[-1]

    @property
    def seconds_per_crop(self) -> float:
        return self._engine.seconds_per_crop

    @property
    def seconds_alone(self) -> float:
        return self._engine.seconds_alone

    def run(self, batch: Pixels) -> Scores:
        return self._engine.run(batch)


class Cascade(Scorer):
    """A small network that scores every crop, and a large one to which it defers those it is not sure of."""

    manifest: CascadeManifest

    def __init__(self, bundle: CascadeBundle, device: Device | None = None, threads: int | None = None) -> None:
        """Load both networks.

        Args, Raises:
            As ``Network``; the small network has an eighth of the threads.
        """
        self.manifest = bundle.manifest
        threads = threads or cores()
        self._quick = Network(bundle.small, device, max(1, int(threads * _SMALL_THREADS)))
        self._thorough = Network(bundle.large, device, threads)
        self.device = self._thorough.device
        self.side = self._thorough.side
        band = self.manifest.deferral_band
        self._band = float(np.float32(band.low)), float(np.float32(band.high))  # as an array would be compared

    @property
    def small(self) -> Network:
        """The quick network."""
        return self._quick

    @property
    def large(self) -> Network:
        """The thorough network."""
        return self._thorough

    @property
    def batch_size(self) -> int:
        return self._quick.batch_size

    @property
    def seconds_per_crop(self) -> float:
        return self._quick.seconds_per_crop

    @property
    def seconds_alone(self) -> float:
        return self._quick.seconds_alone

    def run(self, batch: Pixels) -> Scores:
        return self.score_parts([batch])

    def score_parts(self, parts: Sequence[Pixels]) -> Scores:
        """P(open) of all crops of all parts, uint8 (n, height, width) each: float32 (sum of n,)."""
        scores = self._quick.score_parts(parts)
        chosen = self.defer(scores)
        if chosen is not None:
            ends = np.cumsum([len(part) for part in parts])
            left = [part[mask] for part, mask in zip(parts, np.split(chosen, ends[:-1]), strict=True)]
            scores[chosen] = self._thorough.score_parts([part for part in left if len(part)])
        return scores

    def defer(self, scores: Scores) -> npt.NDArray[np.bool_] | None:
        """Which crops the large network is to score, by the small one's scores; they count as deferred.

        Returns:
            bool (N,); None if there are none.
        """
        low, high = self._band
        if len(scores) == 1 and not low <= scores.item() <= high:
            return None  # most requests: array operations would take twenty times as long
        chosen = (scores >= low) & (scores <= high)
        if count := int(np.count_nonzero(chosen)):
            self.deferred += count
            return chosen
        return None


def open_scorer(bundle: Bundle | CascadeBundle, device: Device | None = None, threads: int | None = None) -> Scorer:
    """A scorer of a bundle.

    Args:
        bundle: what to load.
        device: what computes; ``$EYESTATE_DEVICE``, else the best there is, where it is None.
        threads: CPU threads of one inference; as many as there are cores where it is None.

    Raises:
        BundleError: ONNX Runtime cannot read a network, or its input or output is not what its manifest says.
    """
    return Network(bundle, device, threads) if isinstance(bundle, Bundle) else Cascade(bundle, device, threads)


def load(model: str | Path | None = None, device: Device | None = None) -> Scorer:
    """Load a scorer.

    Args:
        model: the name of a shipped bundle or the path of a bundle's folder; the default model where it is None.
        device: what computes; ``$EYESTATE_DEVICE``, else the best there is, where it is None.

    Raises:
        BundleError: the bundle is missing, damaged or does not fit this version.
    """
    return open_scorer(load_model(model), device)


def _pixels(crop: Pixels | bytes | str | Path) -> Pixels:
    if isinstance(crop, bytes):
        return decode(crop)
    if isinstance(crop, (str, Path)):
        return decode(read(Path(crop)))
    if not isinstance(crop, np.ndarray) or crop.dtype != np.uint8:
        raise TypeError(f"a crop is bytes, a path or a uint8 array, not {getattr(crop, 'dtype', type(crop).__name__)}")
    if crop.ndim not in (2, 3) or (crop.ndim == 3 and crop.shape[2] != 3):
        raise ValueError(f"a crop has the shape (height, width) or (height, width, 3), not {crop.shape}")
    check_size(crop.shape[1], crop.shape[0])
    return crop if crop.ndim == 2 else luma(crop)
