"""Each person's scores, states and events over time, as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

from eyestate.atomic import atomic_writer
from eyestate.extras import extra
from eyestate.video.results import Course

with extra("video"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PEOPLE: Final = 16  # those seen longest; more would not be legible
_COLOURS: Final = {"blink": "tab:blue", "closure": "tab:red"}


def write_plot(path: Path, people: list[Course]) -> None:
    """Write a PNG with a row for each of the people that were seen longest, at most 16."""
    shown = sorted(sorted(people, key=lambda course: -len(course.times))[:_MOST_PEOPLE], key=lambda one: one.person)
    figure = Figure(figsize=(12, 0.8 + 2.2 * max(1, len(shown))), layout="constrained")
    rows = figure.subplots(max(1, len(shown)), 1, sharex=True, squeeze=False)[:, 0]
    for axes, course in zip(rows, shown, strict=False):
        _draw(axes, course)
    if not shown:
        rows[0].set_title("no face")
    rows[-1].set_xlabel("seconds")
    with atomic_writer(path) as file:
        figure.savefig(file, format="png", dpi=110, metadata={"Software": None})


def _draw(axes: Axes, course: Course) -> None:
    for eye, colour, scores in (("left", "tab:green", course.left), ("right", "tab:olive", course.right)):
        values = [math.nan if score is None else score for score in scores]
        axes.plot(course.times, values, color=colour, linewidth=0.7, label=f"score, {eye} eye")
    closed = [state == "closed" for state in course.states]
    axes.fill_between(course.times, 0, 1, where=closed, step="mid", color="grey", alpha=0.25, label="closed")
    for kind, colour in _COLOURS.items():
        spans = [(event.start, event.duration) for event in course.events if event.kind == kind]
        axes.broken_barh(spans, (-0.12, 0.08), color=colour, label=f"{len(spans)} {kind}s")
    shares = [math.nan if share is None else share for share in course.perclos]
    axes.plot(course.times, shares, color="black", linestyle=":", linewidth=1, label="PERCLOS")
    axes.set(ylim=(-0.15, 1.05), title=f"person {course.person}")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)
