"""Single crops in, batched inference out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eyestate.errors import OverloadedError
from eyestate.images import Pixels
from eyestate.scorer import BATCH, Scores


@dataclass(frozen=True, slots=True)
class _Waiting:
    crop: Pixels
    score: asyncio.Future[float]


class Batcher:
    """Collects the crops of concurrent requests into batches for one model.

    While a batch is being scored in a thread, new crops queue up and form the next one: a lone request never waits
    for company, and under load the batches grow by themselves.
    """

    def __init__(self, score: Callable[[Sequence[Pixels]], Scores], *, capacity: int) -> None:
        """Args:
        score: scores a batch of model inputs; runs in a thread.
        capacity: crops that may wait; more are refused.
        """
        self._score = score
        self._capacity = capacity
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()

    async def submit(self, crops: Sequence[Pixels]) -> list[float]:
        """P(open) of each crop, once they have been scored.

        Raises:
            OverloadedError: the crops do not fit into the queue; none of them is scored.
        """
        if self._queue.qsize() + len(crops) > self._capacity:
            raise OverloadedError(f"{self._queue.qsize()} crops are waiting already; try again shortly")
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(crop, loop.create_future()) for crop in crops]
        for item in waiting:
            self._queue.put_nowait(item)
        return await asyncio.gather(*(item.score for item in waiting))

    async def run(self) -> None:
        """Score what is submitted, until cancelled."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            batch = [item for item in batch if not item.score.cancelled()]
            if batch:
                await self._score_batch(batch)

    async def _score_batch(self, batch: Sequence[_Waiting]) -> None:
        try:
            scores = await asyncio.to_thread(self._score, [item.crop for item in batch])
        except Exception as error:  # whatever broke, the requests that wait for it must learn of it
            for item in batch:
                if not item.score.done():
                    item.score.set_exception(error)
            return
        for item, score in zip(batch, scores.tolist(), strict=True):
            if not item.score.done():
                item.score.set_result(score)
