"""The crops of concurrent requests, collected into batches for one model."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from eyestate.arrays import Pixels, Scores
from eyestate.errors import OverloadedError
from eyestate.scorer import Cascade, Scorer
from eyestate.server import metrics, processes
from eyestate.server.admission import overloaded, smoothed

_INLINE_SECONDS: Final = 0.001  # shorter inferences run on the event loop: a thread would cost more
_REQUESTS: Final = 32  # that a batch may hold, even if fewer are left: a smaller one would cost more for each crop
_AHEAD_SECONDS: Final = 0.01  # for which the thread has work if many wait: the event loop brings more only in between

Crops = Pixels | list[Pixels]  # uint8 (N, height, width) if of one size, otherwise (height, width) each
Score = Callable[[Sequence[Pixels]], Scores]


@dataclass(slots=True, eq=False)
class Submission:
    """The crops of one request, and who is told their scores.

    Attributes:
        crops: N grey crops, uint8, at least one.
        answer: called once, on the event loop, with P(open) of each crop, float32 (N,), or why there is none.
        held_by: what may still score them, and is told if nobody wants the scores any more.
        ended: whether ``answer`` was called or will never be.
        queued: when they were queued, by ``time.perf_counter``.
        scores: so far, of crops in several batches.
        taken, scored: how many of them have been taken into batches, and scored.
    """

    crops: Crops
    answer: Callable[[Scores | Exception], None]
    held_by: Batcher | Submission | None = None
    ended: bool = False
    queued: float = 0.0
    scores: Scores | None = None
    taken: int = 0
    scored: int = 0

    @property
    def waiting(self) -> int:
        """Crops that are in no batch yet."""
        return len(self.crops) - self.taken

    def end(self, result: Scores | Exception) -> None:
        """Tell the result."""
        self.ended = True
        self.answer(result)

    def cancel(self) -> None:
        """Free the place in the queue: nobody waits for the scores any more."""
        if self.ended:
            return
        self.ended = True
        if isinstance(self.held_by, Submission):
            self.held_by.cancel()
        elif self.held_by is not None:
            self.held_by.forget(self)


@dataclass(slots=True)
class _Batch:
    """Slices of requests that are scored together."""

    parts: list[tuple[Submission, slice]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)  # seconds that each request waited for its first batch
    size: int = 0
    seconds: float = 0.0

    def run(self, score: Score) -> list[Scores | Exception]:
        """Score all parts in one inference; if it fails, each part in its own, to isolate the failure."""
        slices = [request.crops[part] for request, part in self.parts]
        started = time.perf_counter()
        try:
            scores = score([part for crops in slices for part in _parts(crops)])
        except Exception as error:  # passed on to the requests concerned
            return [error] if len(slices) == 1 else [_attempt(score, crops) for crops in slices]
        self.seconds = time.perf_counter() - started
        results: list[Scores | Exception] = []
        for crops in slices:
            results.append(scores[: len(crops)])
            scores = scores[len(crops) :]
        return results


class Queue(ABC):
    """Where crops wait to be scored. Belongs to one event loop; not thread-safe.

    Attributes:
        batch_size: crops that are scored together at most.
    """

    batch_size: int

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Crops waiting for an inference."""

    @abstractmethod
    def enqueue(self, submission: Submission) -> None:
        """Have crops scored, perhaps at once.

        Raises:
            OverloadedError: the crops do not fit into the queue; none of them is scored.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the threads; nothing may be submitted afterwards."""

    async def submit(self, crops: Crops) -> Scores:
        """P(open) of each crop. Cancelling the caller frees its place in the queue.

        Args:
            crops: N grey crops, uint8.

        Returns:
            float32 (N,).

        Raises:
            OverloadedError: as of ``enqueue``.
        """
        if len(crops) == 0:
            return np.empty(0, np.float32)
        answered: asyncio.Future[Scores] = asyncio.get_running_loop().create_future()
        submission = Submission(crops, partial(_resolve, answered))
        self.enqueue(submission)
        try:
            return await answered
        except asyncio.CancelledError:
            submission.cancel()
            raise


class Batcher(Queue):
    """Scores the crops of concurrent requests in batches.

    There is no delay to fill a batch: what is waiting is scored, and what arrives meanwhile forms the next batch, so
    batches grow with the load. Every waiting request gets an equal share of each batch, so a request with thousands of
    crops does not hold up one with a single crop.
    """

    def __init__(
        self,
        score: Score,
        *,
        batch_size: int,
        seconds_per_crop: float,
        capacity: int,
        max_wait: float,
        seconds_alone: float = 0.0,
    ) -> None:
        """Args:
        score: scores parts of crops together, uint8 (n, height, width) each, to float32 (sum of n,); runs in a
            thread unless it is too fast for that to pay.
        batch_size: crops that are scored together at most.
        seconds_per_crop: what ``score`` is expected to take, until it has been seen.
        capacity: crops that may wait; more are rejected.
        max_wait: longest expected time of a request in seconds; beyond that it is rejected.
        seconds_alone: what a single crop is expected to take, which is far more than its share of a batch on a GPU.
        """
        self._score = score
        self._may_be_inline = seconds_alone < _INLINE_SECONDS
        self._capacity = capacity
        self._max_wait = max_wait
        self._arrived = 0  # requests in this iteration of the event loop
        self._arrived_before = 0  # in the last iteration that had any
        self._requests: deque[Submission] = deque()
        self._waiting = 0
        self._in_flight = 0  # batches submitted to the thread,
        self._computed = 0  # and their crops
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self.batch_size = batch_size
        self._seconds_per_crop = seconds_per_crop

    @property
    def waiting(self) -> int:
        return self._waiting

    def enqueue(self, submission: Submission) -> None:
        number = len(submission.crops)
        self._arrived += 1
        if self._arrived == 1:
            asyncio.get_running_loop().call_soon(self._end_turn)
            if self._is_alone(number):
                submission.end(self._score_now(submission.crops))
                return
        self._admit(number)
        submission.queued = time.perf_counter()
        submission.held_by = self
        self._requests.append(submission)
        self._waiting += number

    def forget(self, submission: Submission) -> None:
        """Take no further crops of a request."""
        if submission.waiting:
            self._requests.remove(submission)
            self._waiting -= submission.waiting
            submission.taken = len(submission.crops)

    def step_back(self) -> None:
        """From now on leave the cores to the event loop, and to other batchers, whenever they have work."""
        self._thread.submit(processes.step_back)

    def close(self) -> None:
        self._thread.shutdown(wait=False)

    def _is_alone(self, crops: int) -> bool:
        """Whether the first request of an iteration can be scored immediately, since no others are expected."""
        return self._arrived_before <= 1 and not self._requests and not self._in_flight and self._is_inline(crops)

    def _end_turn(self) -> None:
        """Score what arrived in one iteration of the event loop."""
        self._arrived_before, self._arrived = self._arrived, 0
        self._pump()

    def _is_inline(self, crops: int) -> bool:
        return self._may_be_inline and crops * self._seconds_per_crop < _INLINE_SECONDS

    def _score_now(self, crops: Crops) -> Scores:
        started = time.perf_counter()
        scores = self._score(_parts(crops))
        metrics.batch(len(crops), (0.0,), time.perf_counter() - started)
        return scores

    def _admit(self, crops: int) -> None:
        if not self._waiting:
            return  # a lone request is accepted, however large
        surplus = self._waiting + crops - self._capacity
        if self._waiting * self._seconds_per_crop > self._max_wait:
            # Shares are equal: until this request is done, no other gets more crops scored than it has.
            others = len(self._requests) if crops == 1 else sum(min(each.waiting, crops) for each in self._requests)
            surplus = max(surplus, others + crops - int(self._max_wait / self._seconds_per_crop))
        if surplus > 0:
            raise overloaded(f"{self._waiting:,} crops", surplus * self._seconds_per_crop)

    def _pump(self) -> None:
        """Score what is waiting: immediately if that is fast, otherwise in the thread."""
        while self._requests and self._takes_another():
            batch = self._next_batch()
            if not self._in_flight and self._is_inline(batch.size):
                self._land(batch, batch.run(self._score))
                if self._requests:
                    asyncio.get_running_loop().call_soon(self._pump)
                return
            self._in_flight += 1
            self._computed += batch.size
            inference = asyncio.get_running_loop().run_in_executor(self._thread, batch.run, self._score)
            inference.add_done_callback(partial(self._landed, batch))

    def _takes_another(self) -> bool:
        """Whether the thread should have another batch, behind those in flight: until one lands, it may grow.

        One full batch waits behind the one that is computed, and more where many requests wait: the event loop is then
        busy with others, and would bring the next batch too late.
        """
        if not self._in_flight:
            return True
        many = len(self._requests) >= _REQUESTS
        if self._in_flight == 1:
            return many or self._waiting >= self.batch_size
        return many and self._computed * self._seconds_per_crop < _AHEAD_SECONDS

    def _next_batch(self) -> _Batch:
        batch = _Batch()
        most = max(_REQUESTS, len(self._requests) // 2)  # with all in one, the event loop would have nothing to do
        share = max(1, self.batch_size // len(self._requests))
        now = time.perf_counter()
        while self._requests and batch.size < self.batch_size and len(batch.parts) < most:
            request = self._requests.popleft()
            if request.taken == 0:
                batch.waits.append(now - request.queued)
            crops = min(request.waiting, share, self.batch_size - batch.size)
            batch.parts.append((request, slice(request.taken, request.taken + crops)))
            batch.size += crops
            request.taken += crops
            if request.waiting:
                self._requests.append(request)
        self._waiting -= batch.size
        return batch

    def _landed(self, batch: _Batch, inference: asyncio.Future[list[Scores | Exception]]) -> None:
        self._in_flight -= 1
        self._computed -= batch.size
        self._land(batch, inference.result())
        self._pump()

    def _land(self, batch: _Batch, results: list[Scores | Exception]) -> None:
        if batch.seconds:
            full = min(1.0, batch.size / self.batch_size)  # a crop costs more in a small batch, of which few will wait
            self._seconds_per_crop = smoothed(self._seconds_per_crop, batch.seconds / batch.size, full)
            metrics.batch(batch.size, batch.waits, batch.seconds)
        for (request, part), result in zip(batch.parts, results, strict=True):
            if request.ended:
                continue
            if isinstance(result, Exception):
                self.forget(request)
                request.end(result)
                continue
            if len(result) == len(request.crops):
                request.end(result)
                continue
            if request.scores is None:
                request.scores = np.empty(len(request.crops), np.float32)
            request.scores[part] = result
            request.scored += len(result)
            if request.scored == len(request.crops):
                request.end(request.scores)


class CascadeBatcher(Queue):
    """Scores crops in batches of a small network, and those that it defers in batches of a large one.

    The networks take turns with nobody: each has its queue, its thread, its shares and its expected time. So a crop of
    which the small network is sure waits for no inference of the large one, and a doubtful one for two of them at most.
    """

    def __init__(self, small: Batcher, large: Batcher, defer: Callable[[Scores], npt.NDArray[np.bool_] | None]) -> None:
        """Args:
        small: scores every crop.
        large: scores what is deferred.
        defer: which crops are, by their scores from the small network; None if there are none.
        """
        large.step_back()
        self._small = small
        self._large = large
        self._defer = defer
        self.batch_size = small.batch_size

    @property
    def waiting(self) -> int:
        return self._small.waiting + self._large.waiting

    def enqueue(self, submission: Submission) -> None:
        """As of ``Queue``.

        It fails later, too, where so many crops are deferred that the large network would take too long.
        """
        small = Submission(submission.crops, partial(self._scored_by_small, submission))
        submission.held_by = small
        self._small.enqueue(small)

    def close(self) -> None:
        self._small.close()
        self._large.close()

    def _scored_by_small(self, submission: Submission, scores: Scores | Exception) -> None:
        if isinstance(scores, Exception) or (chosen := self._defer(scores)) is None:
            submission.end(scores)
            return

        def scored_by_large(better: Scores | Exception) -> None:
            if isinstance(better, Exception):
                submission.end(better)
                return
            scores[chosen] = better
            submission.end(scores)

        large = Submission(_selected(submission.crops, chosen), scored_by_large)
        submission.held_by = large
        try:
            self._large.enqueue(large)
        except OverloadedError as error:
            submission.end(error)


def open_batcher(scorer: Scorer, *, capacity: int, max_wait: float) -> Queue:
    """A batcher for a model; ``capacity`` and ``max_wait`` are those of each of its networks."""
    if isinstance(scorer, Cascade):
        small, large = (_batcher(network, capacity, max_wait) for network in (scorer.small, scorer.large))
        return CascadeBatcher(small, large, scorer.defer)
    return _batcher(scorer, capacity, max_wait)


def _batcher(scorer: Scorer, capacity: int, max_wait: float) -> Batcher:
    return Batcher(
        scorer.score_parts,
        batch_size=scorer.batch_size,
        seconds_per_crop=scorer.seconds_per_crop,
        seconds_alone=scorer.seconds_alone,
        capacity=capacity,
        max_wait=max_wait,
    )


def _resolve(answered: asyncio.Future[Scores], result: Scores | Exception) -> None:
    if answered.done():
        return  # cancelled
    if isinstance(result, Exception):
        answered.set_exception(result)
    else:
        answered.set_result(result)


def _selected(crops: Crops, chosen: npt.NDArray[np.bool_]) -> Crops:
    return crops[chosen] if isinstance(crops, np.ndarray) else [crops[place] for place in np.flatnonzero(chosen)]


def _parts(crops: Crops) -> list[Pixels]:
    return [crops] if isinstance(crops, np.ndarray) else [crop[np.newaxis] for crop in crops]


def _attempt(score: Score, crops: Crops) -> Scores | Exception:
    try:
        return score(_parts(crops))
    except Exception as error:
        return error
