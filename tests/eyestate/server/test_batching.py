from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest

from eyestate.errors import OverloadedError
from eyestate.images import Pixels
from eyestate.scorer import Scores
from eyestate.server.batching import Batcher

LEAST = 32  # crops per batch, where an inference takes long


class Brightness:
    """Scores brightness, remembers the sizes of its batches, waits for ``go``, and breaks on a white crop."""

    def __init__(self, seconds_per_crop: float = 0.002) -> None:
        self.sizes: list[int] = []
        self.threads: set[int] = set()
        self.seconds_per_crop = seconds_per_crop
        self.go = threading.Event()
        self.go.set()
        self.asked = threading.Event()

    def __call__(self, parts: Sequence[Pixels]) -> Scores:
        self.asked.set()
        assert self.go.wait(10)
        self.threads.add(threading.get_ident())
        crops = np.concatenate(parts)
        self.sizes.append(len(crops))
        time.sleep(len(crops) * self.seconds_per_crop)
        if crops.max(initial=0) == 255:
            raise RuntimeError("the network broke")
        scores: Scores = crops.mean((1, 2)).astype(np.float32)
        return scores


def crops(*values: int) -> Pixels:
    return np.array(values, np.uint8).repeat(4).reshape(-1, 2, 2)


def with_batcher(
    work: Callable[[Batcher], Awaitable[None]],
    score: Brightness | None = None,
    capacity: int = 10_000,
    patience: float = 60,
) -> None:
    score = score or Brightness()

    async def run() -> None:
        batcher = Batcher(score, side=2, capacity=capacity, patience=patience)
        score.sizes.clear()
        score.asked.clear()
        try:
            await work(batcher)
        finally:
            score.go.set()
            batcher.close()

    asyncio.run(run())


async def under_way(score: Brightness) -> None:
    """Wait until an inference has begun, which waits for ``go``."""
    assert await asyncio.to_thread(score.asked.wait, 10)


async def submitted(batcher: Batcher, *values: int) -> list[float]:
    scores: list[float] = (await batcher.submit(crops(*values))).tolist()
    return scores


def test_each_caller_gets_its_own_scores_and_the_batches_grow_under_load() -> None:
    score = Brightness()

    async def work(batcher: Batcher) -> None:
        answers = await asyncio.gather(*(submitted(batcher, i, i + 1) for i in range(100)))
        assert answers == [[i, i + 1] for i in range(100)]
        assert batcher.waiting == 0

    with_batcher(work, score)
    assert sum(score.sizes) == 200
    assert max(score.sizes) == LEAST
    assert len(score.sizes) == -(-200 // LEAST)


def test_a_lone_crop_does_not_wait() -> None:
    async def work(batcher: Batcher) -> None:
        assert await asyncio.wait_for(submitted(batcher, 7), 1) == [7]
        assert await submitted(batcher) == []

    with_batcher(work)


def test_a_quick_model_is_scored_without_a_thread_and_in_larger_batches() -> None:
    score = Brightness(seconds_per_crop=0)

    async def work(batcher: Batcher) -> None:
        assert batcher.batch_size > LEAST
        await asyncio.gather(*(submitted(batcher, i % 200) for i in range(600)))

    with_batcher(work, score)
    assert score.threads == {threading.get_ident()}
    assert sum(score.sizes) == 600


def test_who_is_alone_is_scored_at_once() -> None:
    async def work(batcher: Batcher) -> None:
        submitting = batcher.submit(crops(8))
        with pytest.raises(StopIteration) as done:
            submitting.send(None)  # it never waits
        assert done.value.value.tolist() == [8]

    with_batcher(work, Brightness(seconds_per_crop=0))


def test_a_request_with_many_crops_does_not_hold_up_one_with_few() -> None:
    async def work(batcher: Batcher) -> None:
        many = asyncio.create_task(batcher.submit(np.zeros((40 * LEAST, 2, 2), np.uint8)))
        await asyncio.sleep(0.1)
        assert await submitted(batcher, 9) == [9]
        assert not many.done()
        assert (await many).sum() == 0

    with_batcher(work)


def test_what_does_not_fit_is_refused_whole_and_told_when_to_come_back() -> None:
    score = Brightness(seconds_per_crop=0.02)

    async def work(batcher: Batcher) -> None:
        score.seconds_per_crop = 0
        score.go.clear()
        running = asyncio.create_task(submitted(batcher, 1))
        await under_way(score)  # the queue is empty
        waiting = asyncio.create_task(submitted(batcher, *[2] * 130))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as refused:
            await submitted(batcher, *[3] * 130)
        assert refused.value.retry_after == 3  # 129 crops too many at a little over 0.02 s
        assert batcher.waiting == 130
        score.go.set()
        assert await running == [1]
        assert await waiting == [2] * 130

    with_batcher(work, score, capacity=131)


def test_who_would_wait_too_long_is_refused_but_not_who_asks_for_little() -> None:
    score = Brightness(seconds_per_crop=0.005)

    async def work(batcher: Batcher) -> None:
        score.go.clear()
        tasks = [asyncio.create_task(submitted(batcher, *[7] * 200)) for _ in range(2)]
        await under_way(score)
        assert batcher.waiting > 200
        with pytest.raises(OverloadedError) as refused:
            await submitted(batcher, *[8] * 200)
        assert refused.value.retry_after == 2
        little = asyncio.create_task(submitted(batcher, 9))
        await asyncio.sleep(0)
        score.go.set()
        assert await little == [9]
        assert not tasks[0].done()
        assert not tasks[1].done()
        assert await asyncio.gather(*tasks) == [[7] * 200] * 2

    with_batcher(work, score, patience=1.5)


def test_a_request_larger_than_the_queue_is_taken_where_nobody_waits() -> None:
    async def work(batcher: Batcher) -> None:
        assert await submitted(batcher, *range(100)) == list(range(100))

    with_batcher(work, capacity=10)


def test_a_caller_that_left_is_not_scored_and_frees_its_place() -> None:
    score = Brightness()

    async def work(batcher: Batcher) -> None:
        score.go.clear()
        running = asyncio.create_task(submitted(batcher, 1))
        await under_way(score)
        left = asyncio.create_task(submitted(batcher, 2, 2, 2))
        stayed = asyncio.create_task(submitted(batcher, 3))
        await asyncio.sleep(0)
        assert batcher.waiting == 4
        left.cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 1
        score.go.set()
        assert await running == [1]
        assert await stayed == [3]

    with_batcher(work, score)
    assert score.sizes == [1, 1]


def test_a_caller_that_leaves_while_it_is_scored_harms_nobody() -> None:
    score = Brightness()

    async def work(batcher: Batcher) -> None:
        score.go.clear()
        left, stayed = (asyncio.create_task(submitted(batcher, value)) for value in (4, 5))
        await under_way(score)
        left.cancel()
        score.go.set()
        assert await stayed == [5]

    with_batcher(work, score)
    assert score.sizes == [2]


def test_a_crop_that_breaks_the_inference_harms_only_its_own_request() -> None:
    async def work(batcher: Batcher) -> None:
        answers = await asyncio.gather(
            submitted(batcher, 3), submitted(batcher, 255, 1), submitted(batcher, 4), return_exceptions=True
        )
        assert answers[0] == [3]
        assert isinstance(answers[1], RuntimeError)
        assert answers[2] == [4]
        assert await submitted(batcher, 5) == [5]
        assert batcher.waiting == 0

    with_batcher(work)


def test_a_broken_batch_of_a_long_request_ends_it() -> None:
    async def work(batcher: Batcher) -> None:
        with pytest.raises(RuntimeError, match="broke"):
            await submitted(batcher, 255, *[0] * (5 * LEAST))
        assert batcher.waiting == 0
        assert await submitted(batcher, 6) == [6]

    with_batcher(work)
