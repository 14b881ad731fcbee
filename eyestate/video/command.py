"""The command ``eyestate video``."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

import eyestate
from eyestate.errors import VideoError

if TYPE_CHECKING:
    from eyestate.video.job import Outcome


@click.command(
    epilog="""\b
Exit code: 0 all videos are scored; 1 stopped, or a video cannot be read; 2 wrong usage.

\b
Examples:
  eyestate video drive.mp4 --output drive/
  eyestate video recordings/ --output scored/ --annotate
  eyestate video rtsp://camera.example/stream --output watch/
"""
)
@click.argument("source", metavar="FILE|FOLDER|URL")
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where the results go.")
@click.option(
    "--model",
    metavar="NAME",
    help="Name of a bundle under models/, or the path of a bundle's folder.  [default: $EYESTATE_MODEL or the "
    "shipped model]",
)
@click.option(
    "--closure-limit",
    type=click.FloatRange(0, min_open=True),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Up to which a closure is a blink.",
)
@click.option("--annotate", is_flag=True, help="Also write the video with boxes around faces and eyes.")
def command(source: str, output: Path, model: str | None, closure_limit: float, annotate: bool) -> None:
    """Follow the eyes in videos: blinks, long closures, blink rate and PERCLOS of each person.

    Takes a file, a folder of videos, searched recursively, or the address of a stream (rtsp://), which is followed
    until it ends or Ctrl-C. Needs the extra `video`.

    DIR gets timeline.parquet with a row for each person in each frame, events.csv and events.json, plot.png and, with
    --annotate, annotated.mp4; of a folder, each video gets a folder of its own in DIR. Frames that cannot be decoded
    are counted and left out. An interrupted job resumes when the same command is run again.
    """
    from eyestate.mtcnn import FaceDetector  # noqa: PLC0415  # ONNX Runtime, as in `eyestate.load`
    from eyestate.video.job import Job, run, videos  # noqa: PLC0415  # the packages of the extra `video`
    from eyestate.video.reading import is_live  # noqa: PLC0415

    if annotate and is_live(source):
        raise click.UsageError("--annotate needs a file: a stream cannot be read twice")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as in `batch`
    found = videos(source, output)
    job = Job(eyestate.load(model), FaceDetector(), closure_limit, annotate)
    refused = 0
    with _progress() as progress:
        for name, folder in found:
            task = progress.add_task(escape(Path(name).name), total=None, step="")
            try:
                outcome = run(name, folder, job, partial(_described, progress, task))
            except VideoError as error:
                refused += 1
                progress.console.print(error.message, markup=False, highlight=False, soft_wrap=True)
                continue
            except KeyboardInterrupt:
                raise click.ClickException("stopped; run the same command to go on") from None
            finally:
                progress.remove_task(task)
            click.echo(_told(name, folder, outcome))
    if refused:
        raise click.ClickException(f"{refused} of {len(found)} videos could not be read")


def _described(progress: Progress, task: TaskID, what: str) -> Callable[[float, float], None]:
    """Shows the seconds that are done of a step."""
    progress.update(task, step=what)
    return lambda done, total: progress.update(task, completed=done, total=max(done, total) if total else None)


def _told(name: str, folder: Path, outcome: Outcome) -> str:
    """What came of a video, in a line."""
    manifest = outcome.manifest
    blinks = sum(event.kind == "blink" for course in outcome.people for event in course.events)
    closures = sum(event.kind == "closure" for course in outcome.people for event in course.events)
    bad = f", {manifest.bad:,} bad" if manifest.bad else ""
    return (
        f"{name}: {manifest.frames:,} frames{bad}, {len(outcome.people)} people, {blinks:,} blinks, {closures:,} "
        f"longer closures; see {folder}"
    )


def _progress() -> Progress:
    """A progress bar of seconds of video on stderr, removed at the end."""
    return Progress(
        TextColumn("{task.description}"),
        TextColumn("{task.fields[step]}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
