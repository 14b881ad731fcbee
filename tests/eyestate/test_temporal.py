from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyestate.temporal import GAP, LAG, LEARNING, MOST_RATE, WINDOW, Event, Frame, Timeline

OPEN, CLOSED = 0.998, 0.002
SECONDS = 12.0  # of the generated sequences
FEW = settings(max_examples=25)  # each is hundreds of frames


class Sample(NamedTuple):
    time: float
    left: float | None
    right: float | None


class Lid(NamedTuple):
    """When the eyes are closed: start and duration in seconds."""

    start: float
    duration: float


def sampled(lids: Iterable[Lid], rate: float, seconds: float = SECONDS, *, start: float = 0.0) -> list[Sample]:
    times = (number / rate for number in range(int(seconds * rate)))
    return [sample._replace(time=start + sample.time) for sample in seen(lids, times)]


def seen(lids: Iterable[Lid], times: Iterable[float]) -> list[Sample]:
    closed = [(lid.start, lid.start + lid.duration) for lid in lids]
    scores = ((time, CLOSED if any(begin <= time < end for begin, end in closed) else OPEN) for time in times)
    return [Sample(time, score, score) for time, score in scores]


def followed(samples: Iterable[Sample], timeline: Timeline | None = None) -> tuple[list[Event], list[Frame]]:
    timeline = timeline or Timeline()
    updates = [timeline.update(*sample) for sample in samples] + [timeline.finish()]
    return [event for update in updates for event in update.events], [f for update in updates for f in update.settled]


def finished(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.end is not None]


def agree(events: Sequence[Event], lids: Sequence[Lid], within: float) -> None:
    events = finished(events)
    assert len(events) == len(lids)
    for event, lid in zip(events, lids, strict=True):
        assert event.end is not None
        assert abs(event.start - lid.start) <= within
        assert abs(event.end - lid.start - lid.duration) <= within


@st.composite
def sequences(draw: st.DrawFn, shortest: float) -> list[Lid]:
    """Blinks and long closures, well apart."""
    lids, time = [], 0.0
    for _ in range(draw(st.integers(1, 3))):
        time += draw(st.floats(0.6, 2))
        duration = draw(st.one_of(st.floats(shortest, 0.4), st.floats(0.8, 1.8)))
        lids.append(Lid(time, duration))
        time += duration
    return lids


def test_a_blink_has_times_and_amplitude() -> None:
    (event,), frames = followed(sampled([Lid(1, 0.2)], 30, 3))
    assert event.kind == "blink"
    assert event.start == pytest.approx(1, abs=1 / 30)
    assert event.end == pytest.approx(1.2, abs=1 / 30)
    assert event.duration == pytest.approx(0.2, abs=1 / 30)
    assert event.amplitude == pytest.approx(1)
    assert len(frames) == 90
    assert sum(frame.state == "closed" for frame in frames) == 6
    assert sum(frame.closure == 1 for frame in frames) == 6


def test_a_long_closure_is_reported_while_it_lasts_and_when_it_ends() -> None:
    events, _ = followed(sampled([Lid(1, 2)], 30, 5), Timeline(closure_limit=1))
    begun, ended = events
    assert begun.kind == ended.kind == "closure"
    assert begun.end is None
    assert begun.duration == pytest.approx(1, abs=2 / 30)
    assert begun.start == ended.start
    assert ended.duration == pytest.approx(2, abs=2 / 30)


def test_it_is_reported_within_the_lag() -> None:
    timeline = Timeline()
    reported = [s.time for s in sampled([Lid(1, 2)], 30, 5) if any(not e.end for e in timeline.update(*s).events)]
    assert reported == [pytest.approx(1.5 + LAG, abs=2 / 30)]


@given(sequences(0.25), st.floats(10, 120))
@FEW
def test_any_frame_rate_gives_the_same_events(lids: list[Lid], rate: float) -> None:
    events, _ = followed(sampled(lids, rate))
    agree(events, lids, 1 / rate)


@given(sequences(0.1), st.sampled_from([0.0, 1e3, 1.7e9, -50.0]))
@FEW
def test_time_may_begin_anywhere(lids: list[Lid], start: float) -> None:
    events, frames = followed(sampled(lids, 30))
    shifted, shifted_frames = followed(sampled(lids, 30, start=start))
    assert [frame.state for frame in frames] == [frame.state for frame in shifted_frames]
    for event, other in zip(events, shifted, strict=True):
        assert other.start - start == pytest.approx(event.start, abs=1e-4)
        assert other.duration == pytest.approx(event.duration, abs=1e-4)


@given(sequences(0.2), st.randoms(use_true_random=False))
@FEW
def test_dropped_frames_do_not_change_the_events(lids: list[Lid], random: Random) -> None:
    kept, dropped = [], False
    for sample in sampled(lids, 30):
        dropped = not dropped and random.random() < 0.1
        if not dropped:
            kept.append(sample)
    agree(followed(kept)[0], lids, 2 / 30)


@given(sequences(0.2), st.randoms(use_true_random=False))
@FEW
def test_uneven_frames_do_not_change_the_events(lids: list[Lid], random: Random) -> None:
    times = accumulate(random.uniform(0.01, 0.05) for _ in range(400))
    agree(followed(seen(lids, (time for time in times if time < SECONDS)))[0], lids, 0.05)


@pytest.mark.parametrize("rate", [10, 15, 30, 60, 120])
@pytest.mark.parametrize("state", [OPEN, CLOSED])
def test_single_wrong_frames_change_nothing(rate: int, state: float) -> None:
    samples = [Sample(n / rate, *[1 - state if n % 7 == 3 else state] * 2) for n in range(21 * rate)]
    events, frames = followed(samples)
    assert {frame.state for frame in frames} == {"open" if state == OPEN else "closed"}
    assert not [event for event in events if event.kind == "blink"]


def test_one_wrong_eye_changes_nothing() -> None:
    samples = [Sample(n / 30, CLOSED if n % 3 else OPEN, OPEN) for n in range(300)]
    events, frames = followed(samples)
    assert not events
    assert {frame.state for frame in frames} == {"open"}


@pytest.mark.parametrize("hidden", ["left", "right"])
def test_one_eye_is_enough(hidden: str) -> None:
    samples = [Sample(*sample._replace(**{hidden: None})) for sample in sampled([Lid(1, 0.2)], 30, 3)]  # type: ignore[arg-type]
    (event,), _ = followed(samples)
    assert event.duration == pytest.approx(0.2, abs=1 / 30)


def test_a_short_loss_of_both_eyes_is_bridged() -> None:
    samples = sampled([Lid(1, 2)], 30, 5)
    samples[45:50] = [sample._replace(left=None, right=None) for sample in samples[45:50]]
    agree(followed(samples)[0], [Lid(1, 2)], 1 / 30)


def test_nothing_is_known_in_a_gap() -> None:
    samples = [
        sample if not 2 <= sample.time < 4 else sample._replace(left=None, right=None) for sample in sampled([], 30, 6)
    ]
    timeline = Timeline()
    updates = [timeline.update(*sample) for sample in samples]
    states = [update.state for update in updates]
    lost, back = round((2 + GAP) * 30), 4 * 30
    assert set(states[: lost - 1]) == set(states[back:]) == {"open"}
    assert set(states[lost:back]) == {"unknown"}
    assert timeline.observed == pytest.approx(4, abs=0.3)
    frames = [frame for update in [*updates, timeline.finish()] for frame in update.settled]
    assert [frame.time for frame in frames] == [sample.time for sample in samples]


def test_a_gap_without_frames_is_one_too() -> None:
    samples = [sample for sample in sampled([Lid(1.9, 3)], 30, 6) if not 2 <= sample.time < 4]
    events, _ = followed(samples)
    assert [event.kind for event in finished(events)] == ["closure"]  # from 4 to 4.9; what was before it was short
    assert finished(events)[0].start == pytest.approx(4, abs=1 / 30)


def test_a_closure_that_is_lost_from_sight_is_no_blink() -> None:
    samples = [sample for sample in sampled([Lid(1.9, 0.2)], 30, 6) if not 2 <= sample.time < 4]
    assert followed(samples)[0] == []


def test_blinks_a_minute() -> None:
    timeline = Timeline()
    followed(sampled([Lid(2 + 4 * n, 0.2) for n in range(30)], 30, 120), timeline)
    assert timeline.blinks == 30
    assert timeline.blink_rate == pytest.approx(15)
    assert timeline.observed == pytest.approx(WINDOW, abs=LAG + 0.1)


def test_perclos_is_the_share_of_the_last_minute() -> None:
    timeline = Timeline()
    assert timeline.perclos is None
    followed(sampled([Lid(10, 1), Lid(70, 3), Lid(100, 6)], 30, 120), timeline)
    assert timeline.perclos == pytest.approx(9 / 60, abs=0.003)


def test_half_shut_eyes_do_not_count_for_perclos() -> None:
    """At 70 % closed, which is a score of 0.16."""
    timeline = Timeline()
    followed([Sample(n / 30, *[0.16 if n > 300 else OPEN] * 2) for n in range(900)], timeline)
    assert timeline.perclos == 0


def test_narrow_eyes_are_measured_by_their_own_baseline() -> None:
    samples = [
        Sample(time, *[0.55 if score == OPEN else score] * 2)
        for time, score, _ in sampled([Lid(LEARNING + 2 * n, 0.2) for n in range(1, 6)], 30, 20)
    ]
    timeline = Timeline()
    events, frames = followed(samples, timeline)
    assert len(events) == 5
    assert list(timeline.baseline) == [pytest.approx(0.55)] * 2
    assert {frame.closure for frame in frames if frame.time > LEARNING and frame.state == "open"} == {0}


def test_eyes_closed_at_first_are_not_taken_for_open() -> None:
    timeline = Timeline()
    _, frames = followed(sampled([Lid(0, 7)], 30, 20), timeline)
    assert {frame.state for frame in frames if frame.time < 6.9} == {"closed"}
    assert timeline.baseline[0] == pytest.approx(0.9975, abs=1e-4)


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan])
def test_what_is_no_score_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match="a score is from 0 to 1"):
        Timeline().update(0, score, None)


@pytest.mark.parametrize("time", [1.0, 0.5, math.nan, math.inf])
def test_times_must_increase(time: float) -> None:
    timeline = Timeline()
    timeline.update(1, OPEN, OPEN)
    with pytest.raises(ValueError, match="in the order of time"):
        timeline.update(time, OPEN, OPEN)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_a_limit_is_positive(limit: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Timeline(closure_limit=limit)


def test_frames_that_come_too_fast_are_left_out() -> None:
    timeline = Timeline()
    settled = [f for n in range(20_000) for f in timeline.update(n * 1e-4, OPEN, OPEN).settled]
    assert len(settled) <= 2 * MOST_RATE
