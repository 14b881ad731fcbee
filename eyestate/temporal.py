"""Scores over time to states, blinks, long closures, blink rate and PERCLOS.

>>> from eyestate.temporal import Timeline
>>> timeline = Timeline()
>>> for time, left, right in frames:  # seconds, and P(open) of each eye or None
...     for event in timeline.update(time, left, right).events:
...         print(event)

Pure and streaming: no input or output, memory that does not grow, a few microseconds a frame.

How it decides. The log-odds of each score are placed between those of a shut eye and the person's own open eye, which
gives a closure from 0 to 1; that of the eyes seen is averaged. Whether they are closed is a Markov chain of two states
in continuous time, so that frames may come at any rate and be missing. Each frame is evidence for a state, but never
more than that of an observation that is wrong one time in 40. A frame is decided ``LAG`` seconds late, by what
came before and after it (fixed-lag smoothing): a change of state needs more evidence than staying, and one wrong frame
between others never suffices.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

State = Literal["open", "closed", "unknown"]

WINDOW: Final = 60.0  # seconds that blink rate and PERCLOS look back
LAG: Final = 0.15  # seconds from a frame to its final state
GAP: Final = 0.5  # seconds without a score after which the state is unknown
CLOSURE_LIMIT: Final = 0.5  # seconds; blinks take 0.1 to 0.4, and what is longer counts as a microsleep
LEARNING: Final = 5.0  # seconds of scores from which an eye's baseline is learnt
MOST_RATE: Final = 500.0  # frames a second; those that come faster are left out, which bounds the memory

HALF: Final = 0.5  # closure at which a blink begins and ends
P80: Final = 0.8  # closure that counts for PERCLOS

# Log-odds of scores. Of shut eyes of several thousand people, half are below -4.3 to -6.2, by the collection; of open
# ones, the median of a person is 3 to 12. With these two, a closure of 0.8 is a score of 0.057, near the threshold of
# the state `closed`.
_SHUT: Final = -5.0
_WIDE: Final = 6.0
_UNLEARNT: Final = 3.0  # narrow eyes, so that the first seconds of a person with such are not taken for a closure
_NARROWEST: Final = -1.0  # of eyes whose usual score is below 0.27 it cannot be told whether they are ever open
_BASELINE_QUANTILE: Final = 0.75  # of the scores that are learnt from: blinks and glances down are below

_CLOSING: Final = 0.2  # closures a second: people blink 10 to 20 times a minute
_OPENING: Final = 2.5  # 1 / mean seconds that a closure lasts
_MOST_EVIDENCE: Final = math.log(39)  # of a score, and of a frame: what misleads one eye may mislead the other
_CORRELATED: Final = 1 / 60  # seconds; of frames closer together than this, each is less than a whole one's evidence


@dataclass(frozen=True, slots=True)
class Event:
    """Eyes closed and opened again: a blink, or a closure longer than the limit.

    Attributes:
        kind: ``blink``, or ``closure`` if longer than the limit.
        start: seconds, when the eyes were half closed, interpolated between frames.
        end: seconds, when they were half open again, or seen for the last time. None while they are still closed: a
            ``closure`` is reported when it exceeds the limit, and again, with the same ``start``, when it ends.
        duration: seconds from start to end, or so far.
        amplitude: largest closure, 0.5 to 1: an incomplete blink has less than 1.
    """

    kind: Literal["blink", "closure"]
    start: float
    end: float | None
    duration: float
    amplitude: float


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame with its final state.

    Attributes:
        time: seconds.
        closure: of the eyes seen, 0 (as open as this person's usually are) to 1 (shut); None if neither was.
        state: ``open``, ``closed`` or ``unknown``.
    """

    time: float
    closure: float | None
    state: State


@dataclass(frozen=True, slots=True)
class Update:
    """What a frame brought.

    Attributes:
        state: of the eyes now, by this frame and those before it.
        closure: of the eyes in this frame; see ``Frame``.
        events: that ended with it, or that exceeded the limit, in the order of time.
        settled: the frames whose state is final since the last update, in the order of time.
    """

    state: State
    closure: float | None
    events: list[Event]
    settled: list[Frame]


class Timeline:
    """The eyes of one person over time. Not safe to use from several threads at a time.

    The first ``LEARNING`` seconds teach it how open this person's eyes usually are; another person, or another camera,
    needs another timeline.
    """

    def __init__(self, closure_limit: float = CLOSURE_LIMIT) -> None:
        """Start without knowledge of the person.

        Args:
            closure_limit: seconds up to which a closure is a blink.

        Raises:
            ValueError: the limit is not positive.
        """
        if not closure_limit > 0:
            raise ValueError(f"closure_limit is a positive number of seconds, not {closure_limit}")
        self.blinks = 0
        self._left = _Eye()
        self._right = _Eye()
        self._half = _Chain(HALF)
        self._p80 = _Chain(P80)
        self._pending: deque[tuple[float, float | None]] = deque()  # frames of both chains: time and closure
        self._time = -math.inf
        self._seen = -math.inf  # when there was a score last
        self._state: State = "unknown"
        self._closures = _Closures(closure_limit)
        self._minute = _Minute()

    @property
    def baseline(self) -> tuple[float | None, float | None]:
        """The usual score of the open left and right eye, at most 0.9975; None while it is being learnt."""
        return self._left.baseline, self._right.baseline

    @property
    def observed(self) -> float:
        """Seconds of the last minute in which the state was known."""
        return self._minute.observed

    @property
    def blink_rate(self) -> float | None:
        """Blinks a minute, over the observed part of the last minute; None if there is none."""
        return self._minute.blinks * WINDOW / self.observed if self.observed else None

    @property
    def perclos(self) -> float | None:
        """PERCLOS (P80): the share of the observed part of the last minute in which the eyes were at least 80 % closed.

        0 to 1, None if nothing was observed. Blinks are included. Defined by W. W. Wierwille, L. A. Ellsworth, S. S.
        Wreggit, R. J. Fairbanks and C. L. Kirn, "Research on vehicle-based driver status/performance monitoring:
        development, validation, and refinement of algorithms for detection of driver drowsiness", DOT HS 808 247, 1994;
        validated by D. F. Dinges and R. Grace, "PERCLOS: a valid psychophysiological measure of alertness as assessed
        by psychomotor vigilance", FHWA-MCRT-98-006, 1998. There people judged how far lids cover the pupil; here a
        classifier's score stands in for it.
        """
        return self._minute.closed / self.observed if self.observed else None

    def update(self, time: float, left: float | None, right: float | None) -> Update:
        """Add a frame.

        Args:
            time: seconds, later than that of the frame before.
            left, right: P(open) of each eye, 0 to 1; None if the eye was not seen or cannot be judged.

        Raises:
            ValueError: the time is not later, or a score is not from 0 to 1.
        """
        if not (math.isfinite(time) and time > self._time):
            raise ValueError(f"frames come in the order of time: {time} after {self._time}")
        if time - self._time < 1 / MOST_RATE:
            return Update(self._state, None, [], [])
        self._time = time
        closures = [
            eye.closure(time, score) for eye, score in ((self._left, left), (self._right, right)) if score is not None
        ]
        closure = sum(closures) / len(closures) if closures else None
        self._minute.forget(time)
        events: list[Event] = []
        settled: list[Frame] = []
        if time - self._seen > GAP and self._state != "unknown":
            events, settled = self._interrupt()
        if closure is None and self._state == "unknown":
            settled.append(Frame(time, None, "unknown"))
            return Update("unknown", None, events, settled)
        odds = self._half.add(time, closures)
        self._p80.add(time, closures)
        self._pending.append((time, closure))
        if closure is not None:
            self._seen = time
            self._state = "closed" if odds > 1 else "open"
        more_events, more_settled = self._settle(time - LAG)
        return Update(self._state, closure, events + more_events, settled + more_settled)

    def finish(self) -> Update:
        """Settle the last frames, when there are no more to come. What has not ended by then counts only as a closure
        longer than the limit."""
        events, settled = self._interrupt()
        return Update("unknown", None, events, settled)

    def _interrupt(self) -> tuple[list[Event], list[Frame]]:
        """Settle what is pending, end what is going on, and forget the state."""
        events, settled = self._settle(math.inf)
        events += self._closures.interrupt(self._seen)
        self._half, self._p80 = _Chain(HALF), _Chain(P80)
        self._minute.interrupt()
        self._state = "unknown"
        return events, settled

    def _settle(self, until: float) -> tuple[list[Event], list[Frame]]:
        """Give the frames up to a time their final state."""
        count = sum(time <= until for time, _ in self._pending)
        events: list[Event] = []
        settled: list[Frame] = []
        for closed, p80 in zip(self._half.settle(count), self._p80.settle(count), strict=True):
            time, closure = self._pending.popleft()
            settled.append(Frame(time, closure, "closed" if closed else "open"))
            found = self._closures.add(time, closure, closed=closed)
            blinks = sum(event.kind == "blink" for event in found)
            self.blinks += blinks
            self._minute.add(time, closed=p80, blinks=blinks)
            events += found
        return events, settled


class _Eye:
    """One eye of a person, and how open it usually is."""

    def __init__(self) -> None:
        self.baseline: float | None = None
        self._wide = _UNLEARNT
        self._learning: list[float] = []
        self._began = 0.0

    def closure(self, time: float, score: float) -> float:
        """0 (as open as usual) to 1 (shut)."""
        if not 0 <= score <= 1:
            raise ValueError(f"a score is from 0 to 1, not {score}")
        log_odds = min(max(math.log(max(score, 1e-9) / max(1 - score, 1e-9)), _SHUT), _WIDE)
        if self.baseline is None:
            self._learn(time, log_odds)
        return max(self._wide - log_odds, 0.0) / (self._wide - _SHUT)

    def _learn(self, time: float, log_odds: float) -> None:
        if not self._learning:
            self._began = time
        self._learning.append(log_odds)
        if time - self._began >= LEARNING:
            usual = sorted(self._learning)[int(_BASELINE_QUANTILE * len(self._learning))]
            self._learning.clear()
            if usual >= _NARROWEST:
                self._wide = usual
                self.baseline = 1 / (1 + math.exp(-usual))


@dataclass(slots=True)
class _Step:
    """A frame in a chain: the probabilities of closing and of opening since the one before it, its evidence as the
    likelihood ratio of closed to open, and the odds of closed by all frames up to it."""

    closing: float
    opening: float
    evidence: float
    odds: float


class _Chain:
    """Whether closure exceeds a threshold: a Markov chain of two states, smoothed with a lag, in odds of closed."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._steps: deque[_Step] = deque()
        self._time = -math.inf
        self._odds = _CLOSING / _OPENING

    def add(self, time: float, closures: Sequence[float]) -> float:
        """Add a frame with the closures of the eyes seen; returns the odds of closed by all frames so far."""
        elapsed = time - self._time
        changed = (1 - math.exp(-(_CLOSING + _OPENING) * elapsed)) / (_CLOSING + _OPENING)
        closing, opening = _CLOSING * changed, _OPENING * changed
        said = sum(_limited((closure - self._threshold) * (_WIDE - _SHUT), _MOST_EVIDENCE) for closure in closures)
        evidence = math.exp(_limited(said, _MOST_EVIDENCE) * min(elapsed / _CORRELATED, 1.0))
        self._odds = (closing + (1 - opening) * self._odds) / (1 - closing + opening * self._odds) * evidence
        self._time = time
        self._steps.append(_Step(closing, opening, evidence, self._odds))
        return self._odds

    def settle(self, count: int) -> Iterator[bool]:
        """Drop the oldest frames and say of each whether it is closed, by all frames so far."""
        ahead = 1.0  # likelihood ratio, of closed to open, of all frames later than the one in hand
        closed: list[bool] = []
        for place in range(len(self._steps) - 1, -1, -1):
            step = self._steps[place]
            if place < count:
                closed.append(step.odds * ahead > 1)
            later = step.evidence * ahead
            ahead = (step.opening + (1 - step.opening) * later) / (1 - step.closing + step.closing * later)
        for _ in range(count):
            self._steps.popleft()
        return reversed(closed)


class _Closures:
    """Final states to events."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._last: tuple[float, float] | None = None  # time and closure of the last frame with a score
        self._closed = False
        self._start = 0.0
        self._amplitude = HALF
        self._whole = False  # whether its beginning was seen
        self._reported = False  # as longer than the limit

    def add(self, time: float, closure: float | None, *, closed: bool) -> list[Event]:
        if closure is None:
            return []
        events: list[Event] = []
        edge = time if self._last is None else _crossing(self._last, (time, closure))
        if closed and not self._closed:
            self._start, self._amplitude = edge, HALF
            self._whole, self._reported = self._last is not None, False
        if closed:
            self._amplitude = max(self._amplitude, closure)
            if not self._reported and time - self._start > self._limit:
                self._reported = True
                events.append(Event("closure", self._start, None, time - self._start, self._amplitude))
        elif self._closed:
            events += self._ended(edge, whole=self._whole)
        self._closed, self._last = closed, (time, closure)
        return events

    def interrupt(self, seen: float) -> list[Event]:
        """End what is going on at the time when there was a score last."""
        events = self._ended(seen, whole=False) if self._closed else []
        self._closed, self._last = False, None
        return events

    def _ended(self, end: float, *, whole: bool) -> list[Event]:
        duration = end - self._start
        if self._reported or duration > self._limit:
            return [Event("closure", self._start, end, duration, self._amplitude)]
        return [Event("blink", self._start, end, duration, self._amplitude)] if whole else []


class _Minute:
    """What the last minute held."""

    def __init__(self) -> None:
        self._spans: deque[tuple[float, float, bool]] = deque()  # start, end, and whether at least 80 % closed
        self._blinks: deque[float] = deque()  # when they were known
        self._last: float | None = None  # the last frame of what is observed without a gap
        self._begin = -math.inf

    def add(self, time: float, *, closed: bool, blinks: int) -> None:
        """Add a frame with a final state, and the blinks that ended with it."""
        if self._last is not None:
            start = self._last
            if self._spans and self._spans[-1][1:] == (start, closed):
                start = self._spans.pop()[0]
            self._spans.append((start, time, closed))
        self._blinks.extend([time] * blinks)
        self._last = time

    def interrupt(self) -> None:
        """The next frame is not continuous with the last."""
        self._last = None

    def forget(self, time: float) -> None:
        """Drop what is over a minute before a time."""
        self._begin = time - WINDOW
        while self._blinks and self._blinks[0] <= self._begin:
            self._blinks.popleft()
        while self._spans and self._spans[0][1] <= self._begin:
            self._spans.popleft()

    @property
    def blinks(self) -> int:
        return len(self._blinks)

    @property
    def observed(self) -> float:
        """Seconds."""
        return sum(end - max(start, self._begin) for start, end, _ in self._spans)

    @property
    def closed(self) -> float:
        """Seconds."""
        return sum(end - max(start, self._begin) for start, end, closed in self._spans if closed)


def _crossing(before: tuple[float, float], after: tuple[float, float]) -> float:
    """When the closure passed one half, between two frames (time, closure); their middle if it is not clear."""
    (start, first), (end, last) = before, after
    share = (HALF - first) / (last - first) if (first - HALF) * (last - HALF) < 0 else 0.5
    return start + share * (end - start)


def _limited(value: float, most: float) -> float:
    return min(max(value, -most), most)
