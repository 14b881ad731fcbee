from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from eyestate.batching import Batcher
from eyestate.errors import OverloadedError
from eyestate.images import Pixels
from eyestate.scorer import BATCH, Scores


class Brightness:
    """Scores brightness, remembers the sizes of its batches, and waits for ``go``."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, crops: Sequence[Pixels]) -> Scores:
        self.go.wait(10)
        self.sizes.append(len(crops))
        if any(crop.max() == 255 for crop in crops):
            raise RuntimeError("the network broke")
        return np.array([crop.mean() for crop in crops], np.float32)


def crop(value: int) -> Pixels:
    return np.full((2, 2), value, np.uint8)


async def with_batcher(score: Brightness, capacity: int, work: object) -> None:
    batcher = Batcher(score, capacity=capacity)
    scoring = asyncio.create_task(batcher.run())
    try:
        await work(batcher)  # type: ignore[operator]
    finally:
        score.go.set()
        scoring.cancel()


def test_each_caller_gets_its_own_scores_and_the_batches_grow_under_load() -> None:
    score = Brightness()

    async def work(batcher: Batcher) -> None:
        answers = await asyncio.gather(*(batcher.submit([crop(i), crop(i + 1)]) for i in range(100)))
        assert answers == [[i, i + 1] for i in range(100)]

    asyncio.run(with_batcher(score, 1000, work))
    assert sum(score.sizes) == 200
    assert max(score.sizes) == BATCH
    assert len(score.sizes) == -(-200 // BATCH)


def test_a_lone_crop_does_not_wait() -> None:
    async def work(batcher: Batcher) -> None:
        assert await asyncio.wait_for(batcher.submit([crop(7)]), 1) == [7]
        assert await batcher.submit([]) == []

    asyncio.run(with_batcher(Brightness(), 10, work))


def test_what_does_not_fit_is_refused_whole() -> None:
    score = Brightness()
    score.go.clear()

    async def work(batcher: Batcher) -> None:
        running = asyncio.create_task(batcher.submit([crop(1)]))
        await asyncio.sleep(0.05)  # its inference is under way; the queue is empty
        waiting = asyncio.create_task(batcher.submit([crop(2)] * 3))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await batcher.submit([crop(3)] * 2)
        score.go.set()
        assert await running == [1]
        assert await waiting == [2, 2, 2]

    asyncio.run(with_batcher(score, 4, work))


def test_a_caller_that_left_is_not_scored() -> None:
    score = Brightness()
    score.go.clear()

    async def work(batcher: Batcher) -> None:
        running = asyncio.create_task(batcher.submit([crop(1)]))
        await asyncio.sleep(0.05)
        left = asyncio.create_task(batcher.submit([crop(2)] * 3))
        stayed = asyncio.create_task(batcher.submit([crop(3)]))
        await asyncio.sleep(0)
        left.cancel()
        score.go.set()
        assert await running == [1]
        assert await stayed == [3]

    asyncio.run(with_batcher(score, 10, work))
    assert score.sizes == [1, 1]


def test_a_broken_inference_reaches_its_callers_and_the_next_batch_is_scored() -> None:
    async def work(batcher: Batcher) -> None:
        with pytest.raises(RuntimeError, match="broke"):
            await batcher.submit([crop(255), crop(1)])
        assert await batcher.submit([crop(4)]) == [4]

    asyncio.run(with_batcher(Brightness(), 10, work))
