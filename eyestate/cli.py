"""The ``eyestate`` command."""

from __future__ import annotations

import codecs
import csv
import errno
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import click
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

import eyestate
from eyestate import __version__
from eyestate.bundle import State
from eyestate.drift_command import command as drift_command
from eyestate.errors import EyestateError, ImageError, ServiceError
from eyestate.files import LeftOut, image_files
from eyestate.images import SUFFIXES
from eyestate.serve import serve
from eyestate.video.command import command as video_command

if TYPE_CHECKING:
    from eyestate.scorer import Scorer

Layout = Literal["table", "csv", "jsonl"]

_ANY: Final = 2**20  # columns, wider than any table
_READ_FILES: Final = 32  # images held at a time

paths_argument = click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH…")
model_option = click.option(
    "--model",
    metavar="NAME",
    help="Name of a bundle under models/, or the path of a bundle's folder.  [default: $EYESTATE_MODEL or the "
    "shipped model]",
)
layout_option = click.option(
    "--format",
    "layout",
    type=click.Choice(["table", "csv", "jsonl"]),
    default="table",
    show_default=True,
    help="How to print the scores on stdout.",
)


class Commands(click.Group):
    """A group whose commands report the project's errors by message and exit code 1, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EyestateError as error:
            raise click.ClickException(error.message) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise click.ClickException(f"cannot write: {error.strerror}") from error


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: eyestate score FOLDER",
)
@click.version_option(__version__, prog_name="eyestate")
def main() -> None:
    """Tell open eyes from closed ones.

    A score is the probability, 0 to 1, that the eye in a crop is open. The state is the verdict under the model's
    thresholds: open, closed, or uncertain in between.
    """


main.add_command(serve)
main.add_command(drift_command, "drift-reference")
main.add_command(video_command, "video")


@main.command(
    epilog="""\b
Examples:
  eyestate score eye.jpg
  eyestate score crops/ more/ --format csv > scores.csv
  eyestate score crops/ --format jsonl | jq 'select(.state == "uncertain")'
"""
)
@paths_argument
@model_option
@layout_option
def score(paths: tuple[Path, ...], model: str | None, layout: Layout) -> None:
    """Score eye crops: image files, and folders, which are searched recursively in sorted order.

    Reads JPEG, PNG, WebP and BMP. Files that cannot be read are named on stderr and skipped; the exit code is then 1.
    """
    scorer = eyestate.load(model)
    files = _files(paths)
    refused = 0
    with _progress() as progress, _writer(layout, Row) as write:
        for path, outcome in progress.track(_outcomes(scorer, files), len(files), description="scoring"):
            if isinstance(outcome, ImageError):
                refused += 1
                _tell(progress, path, outcome.message)
            else:
                write(Row(str(path), outcome, scorer.state(outcome)))
    if refused:
        raise click.ClickException(f"{refused} of {len(files)} files could not be scored")


@main.command(
    epilog="""\b
Examples:
  eyestate faces group.jpg
  eyestate faces holiday/ --format csv > eyes.csv
"""
)
@paths_argument
@model_option
@layout_option
def faces(paths: tuple[Path, ...], model: str | None, layout: Layout) -> None:
    """Find the faces in photos and score their eyes: image files, and folders, which are searched recursively.

    Prints a row for each eye: the number of the face (1 is the largest), whether it is the person's own left or right
    eye, the scored square in pixels, score and state. Photos without a face and unreadable files are named on stderr;
    the latter make the exit code 1.
    """
    from eyestate.faces import find  # noqa: PLC0415  # ONNX Runtime, as in `eyestate.load`
    from eyestate.images import read  # noqa: PLC0415
    from eyestate.mtcnn import FaceDetector  # noqa: PLC0415

    scorer, detector = eyestate.load(model), FaceDetector()
    files = _files(paths)
    refused = 0
    with _progress() as progress, _writer(layout, EyeRow) as write:
        for path in progress.track(files, description="detecting"):
            try:
                found = find(detector, read(path))
            except ImageError as error:
                refused += 1
                _tell(progress, path, error.message)
                continue
            if not found.faces:
                _tell(progress, path, "no face")
            scores = iter(scorer.score(found.crops).tolist())
            for number, eyes in enumerate(found.eyes, 1):
                for eye, box in (("right", eyes.right), ("left", eyes.left)):
                    if box is not None:
                        score = next(scores)
                        left, top, width, height = map(int, box)  # they are whole pixels
                        write(EyeRow(str(path), number, eye, left, top, width, height, score, scorer.state(score)))
    if refused:
        raise click.ClickException(f"{refused} of {len(files)} files could not be read")


@main.command(
    epilog="""\b
Examples:
  eyestate best IMG_20*.jpg
  eyestate best burst/ --format jsonl | head -1 | jq -r .path
"""
)
@paths_argument
@model_option
@layout_option
def best(paths: tuple[Path, ...], model: str | None, layout: Layout) -> None:
    """Rank photos of the same people, the best first: that in which most have their eyes open.

    Of photos in which as many have, the best is that in which the fewest blink, then that in which it cannot be told of
    the fewest (an eye is hidden, behind sunglasses or in profile), then the sharpest. Files that cannot be read are
    named on stderr and skipped; the exit code is then 1.
    """
    from eyestate import verdicts  # noqa: PLC0415  # ONNX Runtime, as in `eyestate.load`
    from eyestate.faces import find  # noqa: PLC0415
    from eyestate.images import read  # noqa: PLC0415
    from eyestate.mtcnn import FaceDetector  # noqa: PLC0415

    scorer, detector = eyestate.load(model), FaceDetector()
    files = _files(paths)
    shots: dict[int, verdicts.Shot] = {}
    with _progress() as progress, _writer(layout, ShotRow) as write:
        for place, path in enumerate(progress.track(files, description="comparing")):
            try:
                found = find(detector, read(path))
            except ImageError as error:
                _tell(progress, path, error.message)
                continue
            sight = verdicts.look(found)
            judgements = verdicts.judge(found, sight, scorer.states(scorer.score(found.crops)))
            shots[place] = verdicts.shot(judgements, sight.sharpness)
        most = max((shot.faces for shot in shots.values()), default=0)
        for rank, place in enumerate(verdicts.ranked(shots), 1):
            shot = shots[place]
            reason = verdicts.reason(shot, most)
            write(ShotRow(rank, str(files[place]), shot.open, shot.closed, shot.cannot_tell, shot.sharpness, reason))
    if len(shots) < len(files):
        raise click.ClickException(f"{len(files) - len(shots)} of {len(files)} files could not be read")


def _shard(value: str) -> tuple[int, int]:
    index, _, shards = value.partition("/")
    if not (index.isdecimal() and shards.isdecimal() and int(index) < int(shards)):
        raise click.BadParameter("give I/N with I from 0 to N - 1, such as 0/8")
    return int(index), int(shards)


@main.command(
    epilog="""\b
Exit code: 0 all rows are scored; 1 stopped, or rows are postponed; 2 wrong usage; 3 finished, some rows have an error.

\b
Examples:
  eyestate batch crops/ --endpoint http://127.0.0.1:3000 --output scores/
  eyestate batch 'shards/*.tar' --endpoint https://eyes.example --output scores/ --in-flight 16
  eyestate batch crops.parquet --key-column id --endpoint http://127.0.0.1:3000 --output scores/
  eyestate batch crops/ --endpoint http://eyes --output /shared/scores --shard $JOB_COMPLETION_INDEX/8
"""
)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT…")
@click.option("--endpoint", required=True, metavar="URL", help="Where the service is.")
@click.option("--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where the scores go.")
@click.option(
    "--image-column", default="image", show_default=True, metavar="NAME", help="Column of Parquet with the images."
)
@click.option("--key-column", metavar="NAME", help="Column of Parquet with the keys.  [default: the row's number]")
@click.option(
    "--rows-per-part", type=click.IntRange(1), default=10_000, show_default=True, help="Rows in an output file."
)
@click.option(
    "--rows-per-request", type=click.IntRange(1, 16_384), default=256, show_default=True, help="Images in a request."
)
@click.option(
    "--in-flight", type=click.IntRange(1, 1_000), default=4, show_default=True, help="Requests under way at a time."
)
@click.option(
    "--patience",
    type=click.FloatRange(0),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="How long to go on trying while the service is overloaded, restarts or cannot be reached.",
)
@click.option(
    "--api-key",
    envvar="EYESTATE_API_KEY",
    metavar="KEY",
    help="Key of a service that asks for one. Other users see it in the list of processes: better set "
    "$EYESTATE_API_KEY, or give the file.  [$EYESTATE_API_KEY]",
)
@click.option(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File with the key, in place of --api-key.",
)
@click.option(
    "--ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="CA certificates to trust for https, in place of the system's.",
)
@click.option(
    "--shard",
    default="0/1",
    show_default=True,
    metavar="I/N",
    callback=lambda _context, _parameter, value: _shard(value),
    help="Score only every N-th part, from part I on: N machines share a job, with one DIR that all see.",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Read and send from this process, or from the machines of a Ray cluster, where each core has a part.",
)
def batch(
    *,
    inputs: tuple[str, ...],
    endpoint: str,
    output: Path,
    image_column: str,
    key_column: str | None,
    rows_per_part: int,
    rows_per_request: int,
    in_flight: int,
    patience: float,
    api_key: str | None,
    api_key_file: Path | None,
    ca: Path | None,
    shard: tuple[int, int],
    engine: Literal["local", "ray"],
) -> None:
    """Score millions of crops through a service, into Parquet.

    INPUT is a folder of images (searched recursively in sorted order, hidden files left out), a list (.txt, .csv) with
    the path of an image in each line, zip or tar archives such as WebDataset shards, or Parquet files with a column of
    encoded images or their paths. A folder may hold the archives or the Parquet files, or be a Delta table; '*' and
    '**' are understood.

    DIR gets part-000000.parquet and so on, in the order of the input: row, source, key, score, state, and error and
    message where an image could not be scored. _manifest.json says which parts are whole, and which input and model
    they are of.

    An interrupted job resumes when the same command is run again. The input must not have changed (names, sizes and
    modification times of its files), nor the model.
    """
    from eyestate.batch.engine import Service  # noqa: PLC0415
    from eyestate.batch.job import Job, run  # noqa: PLC0415
    from eyestate.batch.parquet import Columns  # noqa: PLC0415  # the packages of the extra `client`
    from eyestate.batch.progress import progress  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C; process 1 of a container would ignore it
    job = Job(
        inputs=inputs,
        output=output,
        service=Service(
            endpoint, _key(api_key_file) if api_key_file else api_key, ca or True, patience, in_flight, rows_per_request
        ),
        columns=Columns(image_column, key_column),
        rows_per_part=rows_per_part,
        shard=shard[0],
        shards=shard[1],
        engine=engine,
    )
    try:
        with progress() as shown:
            manifest = run(job, shown)
    except KeyboardInterrupt:
        raise click.ClickException("stopped; run the same command to go on") from None
    except ServiceError as error:
        message = f"{error.message}\nWhat is scored is kept; run the same command to go on."
        raise click.ClickException(message) from None
    totals = manifest.totals
    click.echo(
        f"{totals.rows:,} rows in {output}: {totals.open:,} open, {totals.closed:,} closed, {totals.uncertain:,} "
        f"uncertain, {totals.failed:,} failed" + (f", {totals.postponed:,} postponed" if totals.postponed else "")
    )
    if totals.postponed:
        raise click.ClickException(
            f"{totals.postponed:,} rows could not be scored for reasons outside of them, which their messages say; run "
            "the same command to try these again"
        )
    if totals.failed:
        raise SystemExit(3)


def _key(file: Path) -> str:
    """The key in a file, whose bytes are sent as they are."""
    try:
        key = file.read_bytes().removeprefix(codecs.BOM_UTF8).strip()
    except OSError as error:
        raise click.ClickException(f"cannot read the API key from {file}: {error.strerror}") from None
    if not key:
        raise click.ClickException(f"{file} is empty; it must hold the API key")
    return key.decode(errors="surrogateescape")


def _files(paths: Sequence[Path]) -> list[Path]:
    """The image files named by the arguments; what folders hold besides is told on stderr.

    Raises:
        ClickException: there are none.
    """
    left_out = LeftOut()
    files = image_files(paths, left_out)
    if left_out:
        click.echo(str(left_out), err=True)
    if not files:
        raise click.ClickException(f"no image files ({', '.join(sorted(SUFFIXES))}) in {', '.join(map(str, paths))}")
    return files


def _tell(progress: Progress, path: Path, what: str) -> None:
    """Report a problem with a file on stderr."""
    progress.console.print(f"{path}: {what}", markup=False, highlight=False, soft_wrap=True)


def _outcomes(scorer: Scorer, files: Sequence[Path]) -> Iterator[tuple[Path, float | ImageError]]:
    for start in range(0, len(files), _READ_FILES):
        chunk = files[start : start + _READ_FILES]
        yield from zip(chunk, scorer.score_each(chunk), strict=True)


def _progress() -> Progress:
    """A progress bar on stderr, removed at the end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


class Row(NamedTuple):
    """One scored file, in the order of the columns."""

    path: str
    score: float
    state: State


class EyeRow(NamedTuple):
    """One eye of a face in a photo, in the order of the columns."""

    path: str
    face: int
    eye: str
    left: int
    top: int
    width: int
    height: int
    score: float
    state: State


class ShotRow(NamedTuple):
    """One of several photos of the same people, in the order of the columns."""

    rank: int
    path: str
    open: int
    closed: int
    cannot_tell: int
    sharpness: float
    reason: str


@contextmanager
def _writer(layout: Layout, kind: type[Row | EyeRow | ShotRow]) -> Iterator[Callable[[Row | EyeRow | ShotRow], object]]:
    """A function that prints one row on stdout in the given layout."""
    if sys.stdout is None:  # closed by the caller
        raise click.ClickException("stdout is closed: there is nowhere to print to")
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # file names are any bytes
    if layout == "csv":
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(kind._fields)
        yield lambda row: rows.writerow(_plain(cell) if isinstance(cell, float) else cell for cell in row)
    elif layout == "jsonl":
        yield lambda row: print(json.dumps(row._asdict()))
    else:
        table = Table(*(Column(name, overflow="fold") for name in kind._fields))
        yield lambda row: table.add_row(
            *(f"{cell:.4f}" if isinstance(cell, float) else escape(str(cell)) for cell in row)
        )
        console = Console()
        if not console.is_terminal:  # a line may have any length there, and a name that is cut tells nothing
            console.width = max(
                console.width, Measurement.get(console, console.options.update(width=_ANY), table).maximum
            )
        console.print(table)


def _plain(score: float) -> str:
    """The shortest decimal representation of a float32 without an exponent."""
    return np.format_float_positional(np.float32(score), trim="0")
