"""Who gets a place, and which body gives way to others."""

from __future__ import annotations

import asyncio
import math

import pytest
from starlette.types import Scope

from eyestate.errors import BodyTooLargeError, OverloadedError, QuotaExceededError
from eyestate.server.admission import (
    MIN_BYTES_PER_SECOND,
    PATIENCE_SECONDS,
    SMALL_BODY_BYTES,
    Places,
    Quota,
    Upload,
    slowest,
)
from eyestate.server.uploads import BodyBudget


def arrived(places: Places, client: str = "", size: int = 1) -> Upload:
    upload = Upload(client, places)
    upload.expect()
    upload.arrived(size, complete=True)
    return upload


def test_a_body_that_is_not_complete_has_no_place() -> None:
    places = Places(1)
    waiting = Upload("", places)
    waiting.expect()
    waiting.arrived(1, complete=False)
    last = arrived(places)
    with pytest.raises(OverloadedError):
        waiting.arrived(1, complete=True)
    places.leave(waiting)
    with pytest.raises(OverloadedError):
        places.check("")
    places.leave(last)
    places.check("")


def test_one_address_gets_three_quarters_of_the_places() -> None:
    places = Places(8)
    held = [arrived(places, "a") for _ in range(6)]
    with pytest.raises(OverloadedError, match="6 requests from this address"):
        arrived(places, "a")
    arrived(places, "b")
    places.leave(held[0])
    arrived(places, "a")


def test_requests_whose_heads_are_here_count_until_the_event_loop_has_read_from_all_connections() -> None:
    places = Places(8)

    async def heads() -> None:
        assert [places.expect("a") is None for _ in range(8)] == [True] * 6 + [False] * 2
        assert [places.expect("b") is None for _ in range(3)] == [True] * 2 + [False]
        await asyncio.sleep(0)
        assert places.expect("a") is None
        for _ in range(6):
            arrived(places, "a")
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as refused:
            places.check("a")
        assert places.expect("a") == str(refused.value)
        assert places.expect("b") is None

    asyncio.run(heads())


def test_large_bodies_leave_half_of_the_places_to_small_ones() -> None:
    places = Places(8)
    held = [arrived(places, str(number), SMALL_BODY_BYTES + 1) for number in range(4)]
    with pytest.raises(OverloadedError, match="4 requests with large bodies"):
        arrived(places, "x", SMALL_BODY_BYTES + 1)
    arrived(places, "x", SMALL_BODY_BYTES)
    places.leave(held[0])
    arrived(places, "x", SMALL_BODY_BYTES + 1)


def test_a_body_may_be_behind_the_least_rate_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    upload = Upload("", Places())
    assert upload.due == math.inf
    upload.expect()
    assert upload.due == now + PATIENCE_SECONDS
    for _ in range(4):
        now += 1
        upload.arrived(MIN_BYTES_PER_SECOND // 2, complete=False)
        assert upload.due == math.inf
        now += 5  # what the service needs is no fault of the client
        upload.expect()
    assert upload.due == now + PATIENCE_SECONDS - 2
    upload.arrived(2**20, complete=False)
    upload.expect()
    assert upload.due == now + PATIENCE_SECONDS  # what came fast before is no credit


def test_the_clock_of_an_answer_starts_when_all_that_was_waited_for_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    whole, cut_off, refused = (Upload("", Places()) for _ in range(3))
    now += 1
    whole.expect()
    cut_off.expect()
    whole.arrived(1, complete=False)
    cut_off.arrived(1, complete=False)
    now += 2
    whole.expect()
    cut_off.expect()
    whole.arrived(1, complete=True)
    now += 4
    assert whole.seconds() == (3, 4)
    assert cut_off.seconds() == (7, 0), "what never comes is no delay of the service"
    assert refused.seconds() == (0, 7), "nothing was waited for"


def test_the_slowest_body_gives_way_unless_all_keep_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    first, second, idle = (Upload("", Places()) for _ in range(3))
    first.expect()
    now += 0.5
    second.expect()
    assert slowest([first, second, idle]) is None
    now += 1
    assert slowest([second, first, idle]) is first
    assert slowest([idle]) is None
    assert slowest([]) is None


def test_an_eighth_of_the_memory_is_kept_for_small_bodies() -> None:
    budget = BodyBudget(limit=16 * SMALL_BODY_BYTES)
    large: Scope = {}
    budget.take(large, 14 * SMALL_BODY_BYTES)
    with pytest.raises(OverloadedError):
        budget.take(large, 1)
    for _ in range(2):
        budget.take({}, SMALL_BODY_BYTES)
    with pytest.raises(OverloadedError):
        budget.take({}, 1)
    budget.release(large)
    assert budget.held == 2 * SMALL_BODY_BYTES


def test_what_hardly_comes_makes_room() -> None:
    stalled: list[Scope] = [{}, {}]

    def make_room() -> bool:
        if stalled:
            budget.release(stalled.pop())
            return True
        return False

    budget = BodyBudget(1000, make_room)
    for scope in stalled:
        budget.take(scope, 500)
    budget.take({}, 600)
    assert stalled == []
    with pytest.raises(OverloadedError):
        budget.take({}, 500)


def test_a_quota_is_a_token_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    quota = Quota(crops_per_second=2, burst=10)
    quota.take(10)
    with pytest.raises(QuotaExceededError) as refused:
        quota.take(3)
    assert refused.value.retry_after == 2
    now += 1.5
    quota.take(3)
    with pytest.raises(QuotaExceededError):
        quota.require_one()
    now += 1_000
    quota.take(10)
    with pytest.raises(QuotaExceededError):
        quota.take(1)
    with pytest.raises(BodyTooLargeError, match="11 crops, and this API key may have 10 scored at once"):
        quota.take(11)


def test_crops_that_were_not_foreseen_are_counted_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    quota = Quota(crops_per_second=2, burst=10)
    quota.require_one()
    quota.take_afterwards(14)
    with pytest.raises(QuotaExceededError) as refused:
        quota.require_one()
    assert refused.value.retry_after == 3
    now += 2.5
    quota.require_one()
