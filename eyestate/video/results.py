"""The scores of a video to each person's timeline: Parquet, and the events as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from eyestate.atomic import atomic_writer, write_atomically
from eyestate.extras import extra
from eyestate.temporal import Event, State, Timeline
from eyestate.video import recording
from eyestate.video.recording import Manifest

with extra("video"):
    import pyarrow as pa
    import pyarrow.parquet as pq

TIMELINE: Final = "timeline.parquet"
SCHEMA: Final = pa.schema(
    [
        *recording.SCHEMA,
        pa.field("closure", pa.float32()),
        pa.field("state", pa.string()),
        pa.field("blink_rate", pa.float32()),
        pa.field("perclos", pa.float32()),
    ]
)


class Course(NamedTuple):
    """What a person's eyes did: for each frame in which they were seen, and as events."""

    person: int
    times: list[float]
    left: list[float | None]
    right: list[float | None]
    closures: list[float | None]
    states: list[State]
    blink_rates: list[float | None]
    perclos: list[float | None]
    events: list[Event]


def courses(scores: pa.Table, closure_limit: float) -> list[Course]:
    """Each person's course, from the rows of a recording."""
    people: dict[int, list[tuple[float, float | None, float | None]]] = {}
    columns = (scores[name].to_pylist() for name in ("person", "time", "left", "right"))
    for person, time, left, right in zip(*columns, strict=True):
        people.setdefault(person, []).append((time, left, right))
    return [_course(person, seen, closure_limit) for person, seen in sorted(people.items())]


def _course(person: int, seen: list[tuple[float, float | None, float | None]], closure_limit: float) -> Course:
    timeline = Timeline(closure_limit)
    course = Course(person, *([] for _ in Course._fields[1:]))
    states: dict[float, State] = {}
    for time, left, right in seen:
        update = timeline.update(time, left, right)
        course.times.append(time)
        course.left.append(left)
        course.right.append(right)
        course.closures.append(update.closure)
        course.blink_rates.append(timeline.blink_rate)
        course.perclos.append(timeline.perclos)
        course.events.extend(event for event in update.events if event.end is not None)
        states |= {frame.time: frame.state for frame in update.settled}
    last = timeline.finish()
    course.events.extend(last.events)
    states |= {frame.time: frame.state for frame in last.settled}
    course.states.extend(states.get(time, "unknown") for time in course.times)
    return course


def write(folder: Path, table: pa.Table, people: list[Course], manifest: Manifest) -> None:
    """Write ``timeline.parquet``, ``events.csv`` and ``events.json``."""
    with atomic_writer(folder / TIMELINE) as file:
        pq.write_table(table, file, compression="zstd")
    rows = [(course.person, event) for course in people for event in course.events]
    rows.sort(key=lambda row: row[1].start)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["person", "kind", "start", "end", "duration", "amplitude"])
    for person, event in rows:
        writer.writerow([person, *_cells(event).values()])
    write_atomically(folder / "events.csv", text.getvalue())
    write_atomically(folder / "events.json", json.dumps(_summary(people, manifest), indent=2) + "\n")


def timeline(scores: pa.Table, people: list[Course]) -> pa.Table:
    """The rows of the recording with the state of each, in the order of time and person."""
    order = [("person", "ascending"), ("time", "ascending")]
    table = scores.sort_by(order)
    for name, values in (
        ("closure", [value for course in people for value in course.closures]),
        ("state", [value for course in people for value in course.states]),
        ("blink_rate", [value for course in people for value in course.blink_rates]),
        ("perclos", [value for course in people for value in course.perclos]),
    ):
        field = SCHEMA.field(name)
        table = table.append_column(field, pa.array(values, field.type))
    return table.sort_by([("time", "ascending"), ("person", "ascending")]).cast(SCHEMA)


def _summary(people: list[Course], manifest: Manifest) -> dict[str, Any]:
    return {
        "source": manifest.source.name,
        "model": manifest.model.model_dump(),
        "frames": manifest.frames,
        "bad_frames": manifest.bad,
        "people": [
            {
                "person": course.person,
                "first": round(course.times[0], 3),
                "last": round(course.times[-1], 3),
                "blinks": sum(event.kind == "blink" for event in course.events),
                "closures": sum(event.kind == "closure" for event in course.events),
                "highest_perclos": round(max((share for share in course.perclos if share is not None), default=0.0), 4),
                "events": [_cells(event) for event in course.events],
            }
            for course in people
        ],
    }


def _cells(event: Event) -> dict[str, Any]:
    assert event.end is not None
    return {
        "kind": event.kind,
        "start": round(event.start, 4),
        "end": round(event.end, 4),
        "duration": round(event.duration, 4),
        "amplitude": round(event.amplitude, 3),
    }
