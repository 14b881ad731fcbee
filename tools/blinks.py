"""How well blinks of drawn eyes are found in generated sequences.

``python -m tools.blinks`` writes ``reports/temporal``.

Drawn people blink at known times. Each frame is a drawn crop scored by the default model; scores are then made wrong
and frames dropped at random. ``eyestate.temporal`` is compared with what is usually written in its place: a threshold
with hysteresis, alone and after a median of five frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Final, Literal, NamedTuple

import click
import numpy as np
import numpy.typing as npt

import eyestate
from eyestate.bundle import load_model
from eyestate.scorer import Scorer
from eyestate.temporal import CLOSURE_LIMIT, Event, Timeline
from tools.harness.report import conditions, describe_models, write_report
from training.data.synthetic import Eye, random_eye, render

FOLDER: Final = Path("reports/temporal")
LEVELS: Final = 21  # openings of an eye that are drawn; a frame shows the nearest
GRAINS: Final = 2  # drawings of each, which differ in mottling and noise
INTERVAL: Final = 3.5  # mean seconds between blinks
DURATION: Final = (0.1, 0.4)  # seconds at half closure or more of a complete blink: half of the lid's movement here
MEDIAN: Final = 0.17  # half of the 0.334 s that spontaneous blinks take from beginning to end (VanderWerf et al. 2003)
INCOMPLETE: Final = 0.2  # share of blinks
DOUBLE: Final = 0.1
LONG: Final = 0.05
GLANCE: Final = 0.2  # lids lowered by a quarter for a second, which is no blink

Wrong = Literal["eye", "frame"]  # scores are wrong one by one, or those of both eyes together
Scores = npt.NDArray[np.float64]


class Truth(NamedTuple):
    """A movement of the lids: seconds from its beginning to its end, and the closure it reaches."""

    start: float
    duration: float
    amplitude: float
    hold: float = 0.0  # seconds shut between closing and opening

    @property
    def end(self) -> float:
        return self.start + self.duration

    @property
    def closes(self) -> bool:
        return self.amplitude > 0.5


class Samples(NamedTuple):
    """Frames as they arrive: seconds, and the scores of both eyes."""

    times: list[float]
    left: list[float]
    right: list[float]


@dataclass(frozen=True)
class Person:
    """Two drawn eyes, how wide they usually are, and the scores of their drawings: (eye, grain, level)."""

    usual: float
    scores: Scores


@dataclass
class Tally:
    """What was found of what there was."""

    true: int = 0
    found: int = 0
    right: int = 0
    right_kind: int = 0
    start_error: float = 0.0

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        return self.right / self.true if self.true else 1.0

    @property
    def f1(self) -> float:
        return 2 * self.right / (self.true + self.found)


def drawn_person(scorer: Scorer, rng: np.random.Generator) -> Person:
    """A person whose two eyes look alike but are not equal."""
    usual = float(rng.uniform(0.75, 1.0))
    left = random_eye(rng, usual)
    mirrored = not left.nose_right
    right = replace(left, nose_right=mirrored, tilt=-left.tilt, centre_y=left.centre_y + rng.normal(0, 0.02))
    crops = [
        _drawing(eye, level, int(rng.integers(2**32)))
        for eye in (left, right)
        for _ in range(GRAINS)
        for level in range(LEVELS)
    ]
    return Person(usual, scorer.score(crops).astype(float).reshape(2, GRAINS, LEVELS))


def _drawing(eye: Eye, level: int, grain: int) -> npt.NDArray[np.uint8]:
    return render(replace(eye, opening=level / (LEVELS - 1), grain=grain))


def movements(rng: np.random.Generator, seconds: float) -> list[Truth]:
    """Blinks, complete or not, alone or double, long closures, and glances down."""
    found: list[Truth] = []
    time = rng.exponential(INTERVAL) + 1
    while time < seconds - 5:
        kind = rng.random()
        if kind < LONG:
            hold = rng.uniform(0.6, 3)
            found.append(Truth(time, hold + 0.3, 1.0, hold))
        elif kind < LONG + GLANCE:
            found.append(Truth(time, 1.3, 0.25, 1.0))
        else:
            for _ in range(1 + (rng.random() < DOUBLE)):
                amplitude = rng.uniform(0.65, 0.95) if rng.random() < INCOMPLETE else 1.0
                duration = 2 * float(np.clip(rng.lognormal(np.log(MEDIAN), 0.3), *DURATION))
                found.append(Truth(time, duration, amplitude))
                time = found[-1].end + rng.uniform(0.02, 0.2)
        time = found[-1].end + 0.3 + rng.exponential(INTERVAL - 0.3)
    return found


def closure(truths: Sequence[Truth], times: Scores) -> Scores:
    """0 (usual) to 1 (shut) at each time: lids close in a third of a movement and open in the rest."""
    closed = np.zeros_like(times)
    for truth in truths:
        moving = truth.duration - truth.hold
        shut, opening = truth.start + moving / 3, truth.start + moving / 3 + truth.hold
        place = np.interp(times, [truth.start, shut, opening, truth.end], [0, 1, 1, 0])
        closed = np.maximum(closed, truth.amplitude * (1 - np.cos(np.pi * place)) / 2)
    return closed


def filmed(
    person: Person, truths: Sequence[Truth], rng: np.random.Generator, *, seconds: float, rate: float, wrong: float,
    wrong_by: Wrong, dropped: float,
) -> Samples:  # fmt: skip
    """The scores of a person's frames."""
    times = np.arange(round(seconds * rate)) / rate
    times = times[rng.random(len(times)) >= dropped]
    opening = person.usual * (1 - closure(truths, times))
    levels = np.round(opening * (LEVELS - 1)).astype(int)
    scores = person.scores[:, rng.integers(GRAINS, size=len(times)), levels]
    flipped = rng.random((2 if wrong_by == "eye" else 1, len(times))) < wrong
    scores = np.where(flipped, 1 - scores, scores)
    return Samples(times.tolist(), scores[0].tolist(), scores[1].tolist())


def by_timeline(samples: Samples) -> list[Event]:
    timeline = Timeline()
    updates = [timeline.update(*sample) for sample in zip(*samples, strict=True)]
    return [event for update in [*updates, timeline.finish()] for event in update.events if event.end is not None]


def by_threshold(samples: Samples, frames: int = 1) -> list[Event]:
    """Closed below a mean score of 0.3 until it is above 0.7, after a median of some frames."""
    mean = [(left + right) / 2 for left, right in zip(samples.left, samples.right, strict=True)]
    reach = frames // 2
    events: list[Event] = []
    start: float | None = None
    for place, time in enumerate(samples.times):
        score = median(mean[max(0, place - reach) : place + reach + 1])
        if start is None and score < 0.3:
            start = time
        elif start is not None and score > 0.7:
            duration = time - start
            events.append(Event("blink" if duration <= CLOSURE_LIMIT else "closure", start, time, duration, 1.0))
            start = None
    return events


METHODS: Final[dict[str, Callable[[Samples], list[Event]]]] = {
    "`eyestate.temporal`": by_timeline,
    "median of 5 frames, threshold with hysteresis": lambda samples: by_threshold(samples, 5),
    "threshold with hysteresis": by_threshold,
}


def compare(events: Iterable[Event], truths: Iterable[Truth], tally: Tally) -> None:
    """Pair events and movements that overlap, each with one at most, in the order of time."""
    left = [truth for truth in truths if truth.closes]
    tally.true += len(left)
    for event in events:
        tally.found += 1
        for truth in left:
            if event.end is not None and truth.start < event.end and event.start < truth.end:
                left.remove(truth)
                tally.right += 1
                tally.right_kind += (event.kind == "closure") == (truth.hold > 0)
                moving = truth.duration - truth.hold
                tally.start_error += abs(event.start - truth.start - moving / 6)  # where it is half of a full blink
                break


@dataclass(frozen=True)
class Condition:
    name: str
    rate: float = 30.0
    wrong: float = 0.02
    wrong_by: Wrong = "eye"
    dropped: float = 0.1


CONDITIONS: Final = (
    Condition("30 frames/s, nothing wrong or dropped", wrong=0, dropped=0),
    Condition("30 frames/s, 2 % of scores wrong, 10 % dropped"),
    Condition("30 frames/s, 2 % of frames wrong in both eyes, 10 % dropped", wrong_by="frame"),
    Condition("30 frames/s, 5 % of scores wrong, 20 % dropped", wrong=0.05, dropped=0.2),
    Condition("10 frames/s, 2 % wrong, 10 % dropped", rate=10),
    Condition("15 frames/s, 2 % wrong, 10 % dropped", rate=15),
    Condition("60 frames/s, 2 % wrong, 10 % dropped", rate=60),
    Condition("120 frames/s, 2 % wrong, 10 % dropped", rate=120),
)


def measure(
    people: Sequence[Person], condition: Condition, method: Callable[[Samples], list[Event]], seconds: float
) -> Tally:
    """All people, each with movements and faults of their own, the same for every method."""
    tally = Tally()
    for number, person in enumerate(people):
        rng = np.random.default_rng([number, 1])
        truths = movements(rng, seconds)
        samples = filmed(
            person, truths, rng, seconds=seconds, rate=condition.rate, wrong=condition.wrong,
            wrong_by=condition.wrong_by, dropped=condition.dropped,
        )  # fmt: skip
        compare(method(samples), truths, tally)
    return tally


def report(rows: Sequence[tuple[Condition, str, Tally]], model: str, people: int, minutes: float) -> str:
    """The table, with how it came about."""
    lines = [
        "# Blinks in generated sequences",
        "",
        f"Made by `python -m tools.blinks`: {people} drawn people, {minutes:g} minutes each, every frame a drawing of",
        f"each eye scored by {model}. Complete blinks keep the eyes half closed for 0.1 to 0.4 s (median {MEDIAN} s);",
        f"{INCOMPLETE:.0%} are incomplete (65 to 95 %), {DOUBLE:.0%} double. {LONG:.0%} of all movements are closures",
        f"of 0.6 to 3 s, and {GLANCE:.0%} glances down, which lower the lids by a quarter and count as errors if",
        "they are taken for blinks. A wrong score is one minus the right one.",
        "",
        "| Condition | Method | Closures | Precision | Recall | F1 | Blink or longer right | Start off by (ms) |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for condition, method, tally in rows:
        right = tally.right or 1
        lines.append(
            f"| {condition.name} | {method} | {tally.true:,} | {tally.precision:.3f} | {tally.recall:.3f} "
            f"| {tally.f1:.3f} | {tally.right_kind / right:.3f} | {1000 * tally.start_error / right:.0f} |"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--people", default=20, show_default=True)
@click.option("--minutes", default=3.0, show_default=True, help="Of each person.")
def main(people: int, minutes: float) -> None:
    """Measure precision and recall of blinks and write reports/temporal/blinks.md and .json."""
    scorer = eyestate.load()
    drawn = [drawn_person(scorer, np.random.default_rng([number, 0])) for number in range(people)]
    rows = [
        (condition, name, measure(drawn, condition, method, 60 * minutes))
        for condition in CONDITIONS
        for name, method in METHODS.items()
    ]
    about = conditions(load_model(), people=people, minutes=minutes)
    text = report(rows, describe_models(about), people, minutes)
    told = [
        {
            "condition": condition.name,
            "method": name,
            "precision": tally.precision,
            "recall": tally.recall,
            "f1": tally.f1,
        }
        for condition, name, tally in rows
    ]
    write_report(FOLDER, "blinks", {"about": about, "rows": told}, text)


if __name__ == "__main__":
    main()
