"""The work of all scoring routes: images or photos to crops, crops to scores."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import numpy as np
from starlette.types import Scope

from eyestate import limits, quality, verdicts
from eyestate.arrays import Pixels, Scores
from eyestate.bundle import Bundle, CascadeBundle
from eyestate.drift import Source
from eyestate.errors import DetectorError, DeviceError, ImageError, ImageTooLargeError
from eyestate.faces import Found, find
from eyestate.images import MAX_SIDE, decode, header_pixels, luma, shrunk, to_inputs
from eyestate.mtcnn import FaceDetector
from eyestate.quality import Assessment
from eyestate.scorer import Scorer
from eyestate.server import metrics, processes, tracing
from eyestate.server.admission import Quota
from eyestate.server.auth import RIGHTS, Rights
from eyestate.server.batching import Crops, Queue
from eyestate.server.face_pool import FacePool
from eyestate.server.memory import BYTES_PER_PIXEL, WORK
from eyestate.server.metrics import Look, Monitor
from eyestate.server.packed import Encoded
from eyestate.server.responses import ResponseWriter, Scored
from eyestate.server.shadow import Shadow

# Images within both limits, all of a request together, are decoded faster than a thread starts.
INLINE_BYTES: Final = 8 * 2**10
_INLINE_PIXELS: Final = 8 * 2**10
_INLINE_IMAGES: Final = 64  # to find out that one is none takes 0.05 ms, however few bytes it has
_SMALL_WORK: Final = 2**20  # bytes: decoding what takes less does not wait for room

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Decoded:
    """The crops of a request.

    Attributes:
        crops: those that could be read, grey, uint8.
        failures: what is wrong with the others, by their place in the request.
        qualities: of the crops as they were sent, None where nobody asked.
        source: where they come from.
    """

    crops: Crops
    failures: dict[int, ImageError]
    qualities: list[Assessment] | None
    source: Source = "crops"


@dataclass(frozen=True, slots=True)
class Runtime:
    """The model of this process, and what requests need to use it."""

    bundle: Bundle | CascadeBundle
    scorer: Scorer
    batcher: Queue
    monitor: Monitor
    responses: ResponseWriter
    face_pool: FacePool | None  # None without a detector
    shadow: Shadow | None = None

    async def decode(
        self, scope: Scope, images: Pixels | Sequence[Encoded | None], with_quality: bool = False
    ) -> Decoded:
        """Decode the images of a request, in a thread if they are large, which stops when the request ends.

        Args:
            scope: of the request.
            images: encoded images, None counting as an empty one, or uint8 (N, height, width) or
                (N, height, width, 3).
            with_quality: whether to measure the crops.

        Raises:
            BodyTooLargeError, QuotaExceededError: they are more than the quota of the request's key has.
        """
        started = time.perf_counter()
        if quota := quota_of(scope):
            quota.take(len(images))
        size = images.nbytes if isinstance(images, np.ndarray) else sum(len(image or b"") for image in images)
        work = partial(self._decode, images, with_quality)
        with tracing.phase(scope, "decode"):
            if size > INLINE_BYTES or len(images) > _INLINE_IMAGES:
                look, decoded = await _in_thread(work)
            else:
                look, decoded = work(_INLINE_PIXELS)
                if decoded.failures and any(isinstance(each, ImageTooLargeError) for each in decoded.failures.values()):
                    look, decoded = await _in_thread(work)
        self.monitor.decoded(time.perf_counter() - started, look)
        for failure in decoded.failures.values():
            metrics.failed(failure.code)
        return decoded

    def decode_small(self, image: bytes) -> Pixels | None:
        """One image of at most ``INLINE_BYTES``, as it is queued, uint8 (1, height, width); None if that takes long.

        Raises:
            ImageError: it cannot be decoded.
        """
        started = time.perf_counter()
        try:
            crop = decode(image, _INLINE_PIXELS)
        except ImageTooLargeError:
            return None
        except ImageError as error:
            metrics.failed(error.code)
            raise
        self.monitor.decoded_one(time.perf_counter() - started, crop)
        return shrunk(crop, self.scorer.side)[np.newaxis]

    def _decode(
        self,
        images: Pixels | Sequence[Encoded | None],
        with_quality: bool,
        max_pixels: int,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> tuple[Look, Decoded]:
        """As ``decode``; of ``max_pixels`` in all, and until the result is no longer wanted."""
        originals, decoded = _decode(images, self.scorer.side, with_quality, max_pixels, is_cancelled)
        return self.monitor.look(originals), decoded

    async def photo(
        self, scope: Scope, photo: bytes, *, with_quality: bool = False, with_verdict: bool = False
    ) -> Scored:
        """Find the faces in an encoded photo, and score their eyes.

        Raises:
            DetectorError: this service finds no faces.
            ImageError: the photo cannot be decoded.
            OverloadedError: too many photos wait already, or too many crops.
            QuotaExceededError: nothing is left of the quota of the request's key.
        """
        if self.face_pool is None:
            raise DetectorError("this service finds no faces: its detector is missing or damaged, as its log says")
        detector, side = self.face_pool.detector, self.scorer.side
        if quota := quota_of(scope):
            quota.require_one()

        def search(is_cancelled: Callable[[], bool]) -> tuple[Found, Decoded, verdicts.Sight | None, Look]:
            found, decoded, sight = _find(
                detector, photo, side, is_cancelled, with_quality=with_quality, with_verdict=with_verdict
            )
            return found, decoded, sight, self.monitor.look(found.crops, "faces")

        with tracing.phase(scope, "find"):
            found, decoded, sight, look = await self.face_pool.run(search)
        self.monitor.decoded(found.decoding, look, "faces")
        metrics.detected(found.detecting, len(found.faces))
        if quota:
            quota.take_afterwards(len(found.crops))
        scores = await self.score(scope, decoded)
        states = self.scorer.states(scores)
        judgements = verdicts.judge(found, sight, states) if sight else None
        return Scored(found, scores, states, decoded.qualities, judgements, sight.sharpness if sight else 0.0)

    async def burst(self, scope: Scope, photos: Sequence[bytes]) -> list[Scored | ImageError]:
        """As ``photo`` of several, with verdicts; those that cannot be decoded get their error.

        All of them are admitted or none: they queue for the threads that look for faces at the same moment.

        Raises:
            DetectorError, OverloadedError: as of ``photo``.
        """

        async def one(photo: bytes) -> Scored | ImageError:
            try:
                return await self.photo(scope, photo, with_verdict=True)
            except ImageError as error:
                metrics.failed(error.code)
                return error.with_traceback(None)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(photo)) for photo in photos]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def score(self, scope: Scope, decoded: Decoded) -> Scores:
        """P(open) of the decoded crops, float32 (N,).

        Raises:
            OverloadedError: the queue is full.
            DeviceError: the GPU has failed; the worker is about to end.
        """
        with tracing.phase(scope, "score"):
            try:
                scores = await self.batcher.submit(decoded.crops)
            except DeviceError as error:
                processes.end_soon(error.message)
                raise
        self.scored(decoded.crops, scores, decoded.source)
        return scores

    def scored(self, crops: Crops, scores: Scores, source: Source = "crops") -> None:
        """Note the scores of crops, and let the shadow model have a look at them."""
        metrics.scored(scores, source)
        if self.shadow and len(scores):
            self.shadow.offer(crops, scores, self.scorer.manifest.thresholds, self.batcher)


def quota_of(scope: Scope) -> Quota | None:
    """The quota of the key of a request; None where it has none."""
    rights: Rights | None = scope.get(RIGHTS)
    return rights.quota if rights else None


def _find(
    detector: FaceDetector,
    photo: bytes,
    side: int,
    is_cancelled: Callable[[], bool],
    *,
    with_quality: bool,
    with_verdict: bool,
) -> tuple[Found, Decoded, verdicts.Sight | None]:
    with WORK.take(header_pixels(photo) * BYTES_PER_PIXEL):
        found = find(detector, photo, is_cancelled)
    qualities = quality.assess(found.crops) if with_quality else None
    sight = verdicts.look(found) if with_verdict else None
    return found, Decoded(_waiting(found.crops, side), {}, qualities, "faces"), sight


async def _in_thread(work: Callable[[int, Callable[[], bool]], Result]) -> Result:
    """What ``work`` makes of the pixels that a request may have; cancelling the caller stops it at the next image."""
    cancelled = threading.Event()
    try:
        return await asyncio.to_thread(work, limits.MAX_PIXELS, cancelled.is_set)
    except asyncio.CancelledError:
        cancelled.set()
        raise


def _decode(
    images: Pixels | Sequence[Encoded | None],
    side: int,
    with_quality: bool,
    max_pixels: int,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> tuple[Pixels | list[Pixels], Decoded]:
    """The crops as they were sent, and as they are queued for scoring.

    Args:
        images, with_quality: as of ``Runtime.decode``.
        side: of the model's input.
        max_pixels: of all images together.
        is_cancelled: asked before each image whether the result is still wanted.
    """
    failures: dict[int, ImageError] = {}
    originals: Pixels | list[Pixels]
    if isinstance(images, np.ndarray):
        originals = _grey(images)
    else:
        originals = []
        left = max_pixels
        for place, image in enumerate(images):
            if is_cancelled():
                break
            try:
                originals.append(_decode_one(bytes(image or b""), min(left, MAX_SIDE**2)))
                left -= originals[-1].size
            except ImageError as error:
                # Without the frames that it came through, which hold all images of the request.
                failures[place] = error.with_traceback(None)
                error.__context__ = None
                left -= error.pixels
    qualities = quality.assess(originals) if with_quality else None
    return originals, Decoded(_waiting(originals, side), failures, qualities)


def _decode_one(data: bytes, max_pixels: int) -> Pixels:
    """As ``decode``; what takes much memory waits for room."""
    if max_pixels * BYTES_PER_PIXEL < _SMALL_WORK or (work := header_pixels(data) * BYTES_PER_PIXEL) < _SMALL_WORK:
        return decode(data, max_pixels)
    with WORK.take(work):
        return decode(data, max_pixels)


def _grey(crops: Pixels) -> Pixels:
    if crops.ndim == 3:
        return crops
    n, height, width, _ = crops.shape
    if crops.nbytes < _SMALL_WORK:
        return luma(crops.reshape(n * height, width, 3)).reshape(n, height, width)
    with WORK.take(2 * crops.nbytes):
        return luma(crops.reshape(n * height, width, 3)).reshape(n, height, width)


def _waiting(crops: Pixels | list[Pixels], side: int) -> Crops:
    """The crops as they are queued for scoring: no larger than needed, and in one array if they are of one size."""
    if isinstance(crops, np.ndarray):
        return crops if crops.shape[1] * crops.shape[2] <= side * side else to_inputs(crops, side)
    crops = [shrunk(crop, side) for crop in crops]
    if len(crops) == 1:
        return crops[0][np.newaxis]
    return np.stack(crops) if len({crop.shape for crop in crops}) == 1 else crops
