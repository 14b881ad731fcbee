from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eyestate.arrays import Pixels, Scores
from eyestate.errors import OverloadedError
from eyestate.server import batching, metrics
from eyestate.server.batching import Batcher, CascadeBatcher

BATCH = 32  # crops per inference, at most


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
    max_wait: float = 60,
    batch_size: int = BATCH,
    *,
    seconds_alone: float = 0.0,
) -> None:
    score = score or Brightness()

    async def run() -> None:
        batcher = Batcher(
            score,
            batch_size=batch_size,
            seconds_per_crop=score.seconds_per_crop,
            capacity=capacity,
            max_wait=max_wait,
            seconds_alone=seconds_alone,
        )
        try:
            async with asyncio.timeout(10):
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
    assert max(score.sizes) == BATCH
    assert len(score.sizes) == -(-200 // BATCH)


def test_a_lone_crop_does_not_wait() -> None:
    async def work(batcher: Batcher) -> None:
        assert await asyncio.wait_for(submitted(batcher, 7), 1) == [7]
        assert await submitted(batcher) == []

    with_batcher(work)


def test_who_is_alone_is_scored_at_once() -> None:
    async def work(batcher: Batcher) -> None:
        submitting = batcher.submit(crops(8))
        with pytest.raises(StopIteration) as done:
            submitting.send(None)  # it never waits
        assert done.value.value.tolist() == [8]

    with_batcher(work, Brightness(seconds_per_crop=0))


def test_where_one_crop_takes_as_long_as_hundreds_the_event_loop_never_waits_for_it() -> None:
    """A GPU: a crop of a full batch takes microseconds, and one alone milliseconds."""
    score = Brightness(seconds_per_crop=0)

    async def work(batcher: Batcher) -> None:
        assert await submitted(batcher, 8) == [8]
        assert await asyncio.gather(*(submitted(batcher, i) for i in range(9))) == [[i] for i in range(9)]

    with_batcher(work, score, seconds_alone=0.002)
    assert threading.get_ident() not in score.threads


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
            await submitted(batcher, 255, *[0] * (5 * BATCH))
        assert batcher.waiting == 0
        assert await submitted(batcher, 6) == [6]

    with_batcher(work)


class Timed:
    """Scores brightness; inferences take as long as ``seconds`` says, on a clock that only they advance.

    Batches are recorded as lists of crop values. Raises for a crop of 255, and waits for ``go``.
    """

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds = seconds
        self.now = 1024.0
        self.batches: list[list[int]] = []
        self.threads: list[int] = []  # of each batch
        self.go = threading.Event()
        self.go.set()
        self.started = threading.Event()

    def perf_counter(self) -> float:
        return self.now

    def __call__(self, parts: Sequence[Pixels]) -> Scores:
        self.started.set()
        assert self.go.wait(10)
        crops = np.concatenate(parts)
        self.batches.append(crops[:, 0, 0].tolist())
        self.threads.append(threading.get_ident())
        self.now += self.seconds(len(crops))
        if crops.max() == 255:
            raise RuntimeError("the network broke")
        scores: Scores = crops.mean((1, 2)).astype(np.float32)
        return scores

    def run(
        self,
        work: Callable[[Batcher], Awaitable[None]],
        *,
        capacity: int = 1_000_000,
        max_wait: float = 1e9,
    ) -> None:
        """Run ``work`` with a batcher. No callback may fail."""
        failures: list[dict[str, Any]] = []

        async def run() -> None:
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: failures.append(context) if "handle" in context else None
            )
            batcher = Batcher(
                self,
                batch_size=BATCH,
                seconds_per_crop=self.seconds(BATCH) / BATCH,
                capacity=capacity,
                max_wait=max_wait,
            )
            try:
                async with asyncio.timeout(10):
                    await work(batcher)
            finally:
                self.go.set()
                batcher.close()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batching, "time", self)
            asyncio.run(run())
        assert not failures

    async def hold(self, batcher: Batcher, size: int = 1) -> asyncio.Task[Scores]:
        """Keep the thread busy with crops of 0 until ``go`` is set."""
        self.go.clear()
        task = asyncio.create_task(batcher.submit(crops(*[0] * size)))
        assert await asyncio.to_thread(self.started.wait, 10)
        return task


def half_a_second_per_crop(size: int) -> float:
    return size / 2


def a_microsecond_per_crop(size: int) -> float:
    return size * 2.0**-20


async def queued(batcher: Batcher, *requests: Sequence[int]) -> list[asyncio.Task[Scores]]:
    """Submit requests in one turn of the event loop, and let that turn end."""
    tasks = [asyncio.create_task(batcher.submit(crops(*values))) for values in requests]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


class TestShares:
    def test_equal_requests_share_each_batch_equally(self) -> None:
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher)
            tasks = await queued(batcher, [1] * 100, [2] * 100)
            timed.go.set()
            await asyncio.gather(first, *tasks)

        timed.run(work)
        assert [(batch.count(1), batch.count(2)) for batch in timed.batches[1:]] == [(16, 16)] * 6 + [(4, 4)]

    def test_what_small_requests_leave_of_their_shares_goes_to_the_large_ones(self) -> None:
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher)
            tasks = await queued(batcher, [1] * 200, [2] * 200, [3])
            timed.go.set()
            await asyncio.gather(first, *tasks)

        timed.run(work)
        assert timed.batches[1] == [1] * 10 + [2] * 10 + [3] + [1] * 10 + [2]
        assert all(abs(batch.count(1) - batch.count(2)) <= 16 for batch in timed.batches)

    def test_a_request_with_thousands_of_crops_holds_up_one_with_one_for_a_batch_at_most(self) -> None:
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher)
            (many,) = await queued(batcher, [1] * 5_000)
            (one,) = await queued(batcher, [2])
            timed.go.set()
            assert (await one).tolist() == [2]
            assert not many.done()
            many.cancel()
            await asyncio.wait([first, many])

        timed.run(work)
        (place,) = (place for place, batch in enumerate(timed.batches) if 2 in batch)
        assert place <= 2  # behind the crop that was computed and the full batch that was ready then

    def test_more_requests_than_fit_into_a_batch_are_taken_one_crop_each_in_order(self) -> None:
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher)
            tasks = await queued(batcher, *([value, value] for value in range(1, 41)))
            timed.go.set()
            await asyncio.gather(first, *tasks)

        timed.run(work)
        assert timed.batches[1:] == [[*range(1, 33)], [*range(33, 41), *range(1, 25)], [*range(25, 41)]]


class TestInFlight:
    def test_no_batch_holds_the_requests_of_all_connections(self) -> None:
        score = Brightness()

        async def work(batcher: Batcher) -> None:
            await asyncio.gather(*(batcher.submit(crops(value)) for value in range(64)))

        with_batcher(work, score, batch_size=64)
        assert score.sizes == [32, 32]

    def test_one_full_batch_waits_behind_the_one_that_is_computed(self) -> None:
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher)
            tasks = await queued(batcher, [1] * 31)
            assert batcher.waiting == 31  # not full: it may grow
            tasks += await queued(batcher, [2])
            assert batcher.waiting == 0
            tasks += await queued(batcher, [3] * 100)
            assert batcher.waiting == 100
            timed.go.set()
            await asyncio.gather(first, *tasks)

        timed.run(work)
        assert [len(batch) for batch in timed.batches] == [1, 32, 32, 32, 32, 4]

    def test_the_thread_has_work_for_as_long_as_the_event_loop_is_busy_with_many_requests(self) -> None:
        timed = Timed(lambda size: size / 2**14)  # two milliseconds for a batch

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher, 17)
            tasks = await queued(batcher, *[[1]] * 256)
            assert batcher.waiting == 256 - 5 * 32  # about ten milliseconds
            timed.go.set()
            await asyncio.gather(first, *tasks)

        timed.run(work)
        assert [len(batch) for batch in timed.batches] == [17, *[32] * 8]

    def test_of_few_requests_no_more_than_two_batches_are_in_flight(self) -> None:
        timed = Timed(lambda size: size / 2**14)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher, 17)
            tasks = await queued(batcher, *[[1] * 100] * 31)
            assert batcher.waiting == 3_100 - 32
            timed.go.set()
            await asyncio.gather(first, *tasks)

        timed.run(work)

    def test_the_more_requests_wait_the_fuller_the_batches(self) -> None:
        score = Brightness()

        async def work(batcher: Batcher) -> None:
            await asyncio.gather(*(batcher.submit(crops(value)) for value in range(200)))

        with_batcher(work, score, batch_size=64)
        assert score.sizes == [64, 64, 36, 32, 4]

    def test_a_caller_that_leaves_takes_its_waiting_crops_with_it(self) -> None:
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher)
            (left,) = await queued(batcher, [1] * 100)
            (stayed,) = await queued(batcher, [2] * 3)
            assert batcher.waiting == 68 + 3
            left.cancel()
            with pytest.raises(asyncio.CancelledError):
                await left
            assert batcher.waiting == 3
            timed.go.set()
            assert (await stayed).tolist() == [2] * 3
            await first

        timed.run(work)
        assert timed.batches == [[0], [1] * 32, [2] * 3]

    def test_nothing_is_computed_for_callers_that_have_all_left(self) -> None:
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher)
            left = await queued(batcher, [1], [2])
            for task in left:
                task.cancel()
            await asyncio.wait(left)
            timed.go.set()
            await first
            assert (await batcher.submit(crops(3))).tolist() == [3]

        timed.run(work)
        assert timed.batches == [[0], [3]]

    def test_while_the_thread_computes_even_a_single_crop_waits(self) -> None:
        timed = Timed(lambda size: size / 2**14)  # two milliseconds for a batch

        async def work(batcher: Batcher) -> None:
            timed.go.clear()
            first = asyncio.create_task(batcher.submit(crops(*[1] * 32)))
            assert await asyncio.to_thread(timed.started.wait, 10)
            (single,) = await queued(batcher, [2])
            assert batcher.waiting == 1
            timed.go.set()
            await asyncio.gather(first, single)

        timed.run(work)
        assert timed.batches == [[1] * 32, [2]]

    def test_the_thread_ends_with_the_batcher(self) -> None:
        before = set(threading.enumerate())
        started: list[threading.Thread] = []

        async def work(batcher: Batcher) -> None:
            await batcher.submit(crops(1))
            started.extend(each for each in set(threading.enumerate()) - before if each.name.startswith("inference"))

        Timed(half_a_second_per_crop).run(work)
        (thread,) = started
        thread.join(10)
        assert not thread.is_alive()


class TestInline:
    """A quick model, whose inferences run on the event loop."""

    def test_the_first_of_a_turn_is_scored_alone_until_turns_bring_company(self) -> None:
        timed = Timed(a_microsecond_per_crop)

        async def work(batcher: Batcher) -> None:
            await asyncio.gather(*await queued(batcher, [1], [2], [3]))
            await asyncio.gather(*await queued(batcher, [4], [5]))
            await asyncio.gather(*await queued(batcher, [6], [7]))
            await asyncio.gather(*await queued(batcher, [8]))
            await asyncio.gather(*await queued(batcher, [9], [10]))

        timed.run(work)
        assert timed.batches == [[1], [2, 3], [4, 5], [6, 7], [8], [9], [10]]
        assert set(timed.threads) == {threading.get_ident()}

    def test_what_takes_a_millisecond_runs_in_the_thread(self) -> None:
        timed = Timed(lambda size: size / 2**14)

        async def work(batcher: Batcher) -> None:
            await batcher.submit(crops(*[1] * 16))  # 0.98 ms
            await batcher.submit(crops(*[1] * 17))  # 1.04 ms

        timed.run(work)
        assert [thread == threading.get_ident() for thread in timed.threads] == [True, False]

    def test_long_requests_let_the_event_loop_go_round_between_their_batches(self) -> None:
        timed = Timed(a_microsecond_per_crop)

        async def work(batcher: Batcher) -> None:
            long = asyncio.create_task(batcher.submit(crops(*[1] * 3_000)))
            turns = 0
            while not long.done():
                await asyncio.sleep(0)
                turns += 1
            assert turns >= len(timed.batches) > 3_000 / BATCH
            assert (await long).tolist() == [1] * 3_000

        timed.run(work)

    def test_a_short_request_joins_the_batches_of_a_long_one(self) -> None:
        timed = Timed(a_microsecond_per_crop)

        async def work(batcher: Batcher) -> None:
            (long,) = await queued(batcher, [1] * 3_000)
            (short,) = await queued(batcher, [2])
            assert (await short).tolist() == [2]
            assert not long.done()
            await long

        timed.run(work)
        assert [len(batch) for batch in timed.batches if 2 in batch] == [32]

    def test_a_caller_that_leaves_as_its_request_fails_frees_its_place_once(self) -> None:
        timed = Timed(a_microsecond_per_crop)

        async def work(batcher: Batcher) -> None:
            failing = asyncio.create_task(batcher.submit(crops(*[255] * 3_000)))

            def seconds(size: int) -> float:
                asyncio.get_running_loop().call_soon(failing.cancel)
                return 0.0

            timed.seconds = seconds
            with pytest.raises(asyncio.CancelledError):
                await failing
            assert batcher.waiting == 0
            timed.seconds = a_microsecond_per_crop
            assert (await batcher.submit(crops(1))).tolist() == [1]

        timed.run(work)


class TestAdmission:
    """Crops take half a second each and 64 seconds may pass: 128 crops."""

    def test_the_queue_may_be_full_to_the_last_crop(self) -> None:
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher)
            (full,) = await queued(batcher, [1] * 31)
            (last,) = await queued(batcher, [2] * 9)  # 32 of them go into the thread's queue
            assert batcher.waiting == 8
            tasks = await queued(batcher, [3] * 32)
            assert batcher.waiting == 40
            with pytest.raises(OverloadedError, match="40 crops are waiting already; try again in 1 s") as refused:
                await batcher.submit(crops(4))
            assert refused.value.retry_after == 1  # one crop too many
            with pytest.raises(OverloadedError) as refused:
                await batcher.submit(crops(*[4] * 41))
            assert refused.value.retry_after == 21  # 41 too many, 20.5 s
            assert batcher.waiting == 40
            timed.go.set()
            await asyncio.gather(first, full, last, *tasks)

        timed.run(work, capacity=40)
        assert not any(4 in batch for batch in timed.batches)

    @pytest.mark.parametrize(("size", "surplus"), [(64, 0), (65, 2), (130, 132), (1_000, 1_002)])
    def test_a_request_is_refused_where_its_share_comes_too_late(self, size: int, surplus: int) -> None:
        """Meanwhile the other, 130 crops long, gets as many of its own scored as this one, but no more than it has."""
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher)
            (other,) = await queued(batcher, [1] * 162)
            assert batcher.waiting == 130
            if surplus:
                with pytest.raises(OverloadedError) as refused:
                    await batcher.submit(crops(*[2] * size))
                assert refused.value.retry_after == surplus / 2
                assert batcher.waiting == 130
                tasks = []
            else:
                tasks = await queued(batcher, [2] * size)
                assert batcher.waiting == 130 + size
            timed.go.set()
            await asyncio.gather(first, other, *tasks)

        timed.run(work, max_wait=64)

    def test_up_to_what_can_be_scored_in_time_requests_of_any_size_are_taken(self) -> None:
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher)
            (other,) = await queued(batcher, [1] * 160)
            assert batcher.waiting == 128
            (large,) = await queued(batcher, [2] * 1_000)
            assert batcher.waiting == 1_128
            timed.go.set()
            await asyncio.gather(first, other, large)

        timed.run(work, max_wait=64)

    def test_single_crops_are_taken_from_as_many_as_can_be_scored_in_time(self) -> None:
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher)
            tasks = await queued(batcher, [1] * 162)
            assert batcher.waiting == 130
            tasks += await queued(batcher, *[[2]] * 127)
            assert batcher.waiting == 257
            with pytest.raises(OverloadedError) as refused:
                await batcher.submit(crops(3))
            assert refused.value.retry_after == 1
            timed.go.set()
            await asyncio.gather(first, *tasks)

        timed.run(work, max_wait=64)

    def test_the_greater_of_both_surpluses_counts(self) -> None:
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher)
            (other,) = await queued(batcher, [1] * 182)
            assert batcher.waiting == 150
            for size, surplus in [(80, 32), (100, 72), (1_000, 1_022), (129, 129)]:
                with pytest.raises(OverloadedError) as refused:
                    await batcher.submit(crops(*[2] * size))
                assert refused.value.retry_after == -(-surplus // 2)
            timed.go.set()
            await asyncio.gather(first, other)

        timed.run(work, capacity=200, max_wait=64)

    def test_the_speed_is_a_moving_average(self) -> None:
        """The newest inference has a tenth of the weight where it is full, and the less the fewer crops it has."""
        timed = Timed(lambda size: size / 128)

        async def retry_after(batcher: Batcher) -> int:
            """In seconds, where 127 950 crops are too many; two inferences of one crop follow."""
            first = await timed.hold(batcher)
            (waiting,) = await queued(batcher, [1])
            with pytest.raises(OverloadedError) as refused:
                await batcher.submit(np.zeros((127_959, 2, 2), np.uint8))
            timed.go.set()
            await asyncio.gather(first, waiting)
            return refused.value.retry_after

        async def work(batcher: Batcher) -> None:
            assert await retry_after(batcher) == 1_000  # 999.6
            timed.seconds = lambda size: size / 64
            await batcher.submit(crops(*[1] * 32))
            assert await retry_after(batcher) == 1_100  # 1.1 times as much
            assert await retry_after(batcher) == 1_106  # 1.1056 times: single crops count a 32nd each

        timed.run(work, capacity=10)


class TestCascade:
    """A quick small network, which is sure of black crops only, and a large one that waits for ``go``."""

    def run(self, work: Callable[[CascadeBatcher, Timed], Awaitable[None]]) -> tuple[Timed, Timed]:
        small, large = Timed(a_microsecond_per_crop), Timed(half_a_second_per_crop)

        async def run() -> None:
            quick, slow = (
                Batcher(score, batch_size=BATCH, seconds_per_crop=seconds, capacity=1_000, max_wait=64)
                for score, seconds in ((small, 1e-6), (large, 0.5))
            )
            batcher = CascadeBatcher(quick, slow, lambda scores: scores > 0 if scores.any() else None)
            try:
                async with asyncio.timeout(10):
                    await work(batcher, large)
            finally:
                large.go.set()
                batcher.close()

        asyncio.run(run())
        return small, large

    @pytest.mark.parametrize("one_by_one", [False, True])
    def test_only_what_the_small_network_defers_is_scored_twice(self, one_by_one: bool) -> None:
        async def work(batcher: CascadeBatcher, _: Timed) -> None:
            sent = crops(0, 5, 0, 7)
            assert (await batcher.submit(list(sent) if one_by_one else sent)).tolist() == [0, 5, 0, 7]

        small, large = self.run(work)
        assert (small.batches, large.batches) == ([[0, 5, 0, 7]], [[5, 7]])

    @pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
    def test_the_large_network_computes_behind_the_event_loop(self) -> None:
        priorities = []

        async def work(batcher: CascadeBatcher, large: Timed) -> None:
            def seconds(_: int) -> float:
                priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
                return 0.01

            large.seconds = seconds
            await batcher.submit(crops(5))

        self.run(work)
        assert min(priorities) > os.getpriority(os.PRIO_PROCESS, 0)  # that of this thread

    def test_a_sure_crop_does_not_wait_for_the_large_network(self) -> None:
        async def work(batcher: CascadeBatcher, large: Timed) -> None:
            large.go.clear()
            doubtful = asyncio.create_task(batcher.submit(crops(*[1] * 100)))
            assert await asyncio.to_thread(large.started.wait, 10)
            assert (await batcher.submit(crops(0))).tolist() == [0]
            assert not doubtful.done()
            large.go.set()
            await doubtful

        self.run(work)

    def test_a_doubtful_crop_waits_for_two_batches_of_the_large_network_at_most(self) -> None:
        async def work(batcher: CascadeBatcher, large: Timed) -> None:
            large.go.clear()
            many = asyncio.create_task(batcher.submit(crops(*[1] * 500)))
            assert await asyncio.to_thread(large.started.wait, 10)
            one = asyncio.create_task(batcher.submit(crops(2)))
            while batcher.waiting < 500 - 2 * BATCH + 1:
                await asyncio.sleep(0)
            large.go.set()
            assert (await one).tolist() == [2]
            assert not many.done()
            await many

        _, large = self.run(work)
        assert 2 in large.batches[2]

    def test_crops_made_to_be_doubtful_are_refused_by_what_the_large_network_takes(self) -> None:
        async def work(batcher: CascadeBatcher, large: Timed) -> None:
            large.go.clear()
            first = asyncio.create_task(batcher.submit(crops(*[1] * 300)))
            assert await asyncio.to_thread(large.started.wait, 10)
            with pytest.raises(OverloadedError) as refused:
                await batcher.submit(crops(*[2] * 300))
            assert refused.value.retry_after == (300 - 2 * BATCH + 300 - 128) // 2  # at half a second each, beyond 64 s
            large.go.set()
            await first

        self.run(work)


class TestMetrics:
    @pytest.fixture(autouse=True)
    def published(self) -> None:
        for histogram in (metrics.BATCH_SIZE, *self.phases().values()):
            histogram.publish()

    def phases(self) -> dict[str, metrics.BulkHistogram]:
        return {phase: metrics.PHASE_SECONDS.labels(phase) for phase in ("queue", "inference")}

    def noted(self) -> tuple[list[float], list[float], list[float]]:
        """Sizes of batches, waits, seconds of inferences."""
        queue, inference = self.phases().values()
        return metrics.BATCH_SIZE.publish().tolist(), queue.publish().tolist(), inference.publish().tolist()

    def test_each_request_waits_once_however_many_batches_it_needs(self) -> None:
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            first = await timed.hold(batcher)
            (long,) = await queued(batcher, [1] * 40)  # 32 are ready at once, behind the first
            timed.now += 3
            (short,) = await queued(batcher, [2])
            timed.go.set()
            await asyncio.gather(first, long, short)

        timed.run(work)
        sizes, waits, seconds = self.noted()
        assert sizes == [1, 32, 9]
        assert waits == [0, 0, 16.5]
        assert seconds == [0.5 + 3, 16, 4.5]

    def test_a_request_that_is_alone_does_not_wait(self) -> None:
        async def work(batcher: Batcher) -> None:
            await batcher.submit(crops(1, 2, 3))

        Timed(a_microsecond_per_crop).run(work)
        assert self.noted() == ([3], [0], [3 * 2.0**-20])

    def test_a_broken_inference_counts_neither_as_a_batch_nor_in_the_speed(self) -> None:
        timed = Timed(half_a_second_per_crop)

        async def work(batcher: Batcher) -> None:
            with pytest.raises(RuntimeError, match="broke"):
                await batcher.submit(crops(255))

        timed.run(work)
        assert self.noted() == ([], [], [])
        assert timed.batches == [[255]]  # alone in its batch: not tried again


requests = st.lists(st.integers(0, 254), min_size=1, max_size=80)
turns = st.lists(st.lists(requests | st.just([1, 255, 2]), min_size=1, max_size=6), min_size=1, max_size=5)


@pytest.mark.parametrize("seconds", [half_a_second_per_crop, a_microsecond_per_crop], ids=["in the thread", "inline"])
@given(turns=turns, leaving=st.sets(st.integers(0, 30)), one_by_one=st.booleans())
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_in_any_order_every_request_gets_its_own_scores_or_its_own_error(
    seconds: Callable[[int], float], turns: list[list[list[int]]], leaving: set[int], one_by_one: bool
) -> None:
    timed = Timed(seconds)

    async def work(batcher: Batcher) -> None:
        submitted: list[tuple[list[int], asyncio.Task[Scores]]] = []
        for turn in turns:
            for values in turn:
                sent = list(crops(*values)) if one_by_one else crops(*values)
                submitted.append((values, asyncio.create_task(batcher.submit(sent))))
            await asyncio.sleep(0)
        for place, (_, task) in enumerate(submitted):
            if place in leaving:
                task.cancel()
        answers = await asyncio.gather(*(task for _, task in submitted), return_exceptions=True)
        for place, ((values, _), answer) in enumerate(zip(submitted, answers, strict=True)):
            if isinstance(answer, asyncio.CancelledError):
                assert place in leaving
            elif 255 in values:
                assert isinstance(answer, RuntimeError)
            else:
                assert isinstance(answer, np.ndarray)
                assert answer.tolist() == values
        assert batcher.waiting == 0

    timed.run(work)
    assert all(len(batch) <= BATCH for batch in timed.batches)
