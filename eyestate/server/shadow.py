"""A second model that scores a share of the crops beside the one that answers, to be told how often they disagree.

Nobody sees its scores, and no answer waits for them: it computes on one thread of the lowest priority, and leaves out
crops that come while it is at work, or while others wait for the model that answers.
"""

from __future__ import annotations

import asyncio
import logging
import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from eyestate.arrays import Scores
from eyestate.bundle import Bundle, CascadeBundle, Thresholds
from eyestate.scorer import Scorer, open_scorer
from eyestate.server import metrics, processes
from eyestate.server.batching import Crops, Queue
from eyestate.settings import Device

log = logging.getLogger("eyestate.server.shadow")

_LOWEST: Final = 19  # nice; ONNX Runtime's and OpenVINO's threads inherit it
_MOST: Final = 256  # crops of a request; a thread cannot be interrupted in the middle of them


class Shadow:
    """The second model. Belongs to one event loop."""

    def __init__(self, bundle: Bundle | CascadeBundle, share: float, device: Device) -> None:
        """Begin to load it.

        Args:
            bundle: the second model.
            share: of the requests whose crops it scores, 0 to 1.
            device: what computes.
        """
        self._share = share
        self._scorer: Scorer | None = None  # while it is loaded or at work
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="shadow", initializer=partial(processes.step_back, _LOWEST)
        )
        opening = asyncio.wrap_future(self._thread.submit(open_scorer, bundle, device, 1))
        opening.add_done_callback(self._opened)

    def offer(self, crops: Crops, scores: Scores, thresholds: Thresholds, batcher: Queue) -> None:
        """Score crops that were just answered, unless there is too much to do.

        Args:
            crops: N grey crops, uint8, as they were queued.
            scores: that were answered, float32 (N,).
            thresholds: of the model that answered.
            batcher: in which crops wait for that one.
        """
        if random.random() >= self._share:  # noqa: S311  # no secret
            return
        scorer = self._scorer
        if scorer is None or batcher.waiting or len(crops) > _MOST:
            metrics.SHADOW_DROPPED.inc(len(crops))
            return
        self._scorer = None
        comparing = asyncio.wrap_future(self._thread.submit(_disagreements, scorer, crops, scores, thresholds))
        comparing.add_done_callback(lambda done: self._compared(scorer, len(crops), done))

    def close(self) -> None:
        """Release the thread; nothing may be offered afterwards."""
        self._scorer = None
        self._thread.shutdown(wait=False)

    def _opened(self, opening: asyncio.Future[Scorer]) -> None:
        if error := opening.exception():
            log.error("the shadow model cannot be loaded: %s", error)
        else:
            self._scorer = opening.result()

    def _compared(self, scorer: Scorer, crops: int, comparing: asyncio.Future[int]) -> None:
        self._scorer = scorer
        if error := comparing.exception():
            log.warning("the shadow model has failed: %s", error)
            metrics.SHADOW_DROPPED.inc(crops)
        else:
            metrics.SHADOW_CROPS.inc(crops)
            metrics.SHADOW_DISAGREEMENTS.inc(comparing.result())


def _disagreements(scorer: Scorer, crops: Crops, scores: Scores, thresholds: Thresholds) -> int:
    """How many crops have another state by this model than by the scores that were answered."""
    own = scorer.score(crops)
    return int(np.count_nonzero(_states(own, scorer.manifest.thresholds) != _states(scores, thresholds)))


def _states(scores: Scores, thresholds: Thresholds) -> npt.NDArray[np.int8]:
    """1 open, -1 closed, 0 uncertain."""
    return (scores >= thresholds.open).astype(np.int8) - (scores <= thresholds.closed)
