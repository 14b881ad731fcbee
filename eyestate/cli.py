"""The ``eyestate`` command."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from eyestate import __version__
from eyestate.bundle import State
from eyestate.errors import EyestateError, ImageError
from eyestate.images import SUFFIXES
from eyestate.scorer import BATCH, Scorer, load


class Commands(click.Group):
    """A group whose commands answer an error of the project with its message and exit code 1, not a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EyestateError as error:
            raise click.ClickException(error.message) from error


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


@main.command(
    epilog="""\b
Examples:
  eyestate score eye.jpg
  eyestate score crops/ more/ --format csv > scores.csv
  eyestate score crops/ --format jsonl | jq 'select(.state == "uncertain")'
"""
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH…")
@click.option(
    "--model",
    metavar="NAME",
    help="Name of a bundle under models/, or the path of a bundle's folder.  [default: $EYESTATE_MODEL or the "
    "shipped model]",
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(["table", "csv", "jsonl"]),
    default="table",
    show_default=True,
    help="How to print the scores on stdout.",
)
def score(paths: tuple[Path, ...], model: str | None, layout: Literal["table", "csv", "jsonl"]) -> None:
    """Score eye crops: image files, and folders, which are searched recursively in sorted order.

    Reads JPEG, PNG, WebP and BMP. Files that cannot be read are named on stderr and skipped; the exit code is then 1.
    """
    scorer = load(model)
    files = list(_files(paths))
    if not files:
        raise click.ClickException(f"no image files ({', '.join(sorted(SUFFIXES))}) in {', '.join(map(str, paths))}")
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # file names are any bytes
    refused = 0
    with _progress() as progress, _writer(layout) as write:
        for path, outcome in progress.track(_outcomes(scorer, files), len(files), description="scoring"):
            if isinstance(outcome, ImageError):
                refused += 1
                progress.console.print(f"{path}: {outcome.message}", markup=False, highlight=False, soft_wrap=True)
            else:
                write(Row(str(path), outcome, scorer.state(outcome)))
    if refused:
        raise click.ClickException(f"{refused} of {len(files)} files could not be scored")


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        else:
            yield path


def _outcomes(scorer: Scorer, files: Sequence[Path]) -> Iterator[tuple[Path, float | ImageError]]:
    for start in range(0, len(files), BATCH):
        chunk = files[start : start + BATCH]
        yield from zip(chunk, scorer.score_each(chunk), strict=True)


def _progress() -> Progress:
    """A progress bar on stderr that is gone when the work is done."""
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


@contextmanager
def _writer(layout: Literal["table", "csv", "jsonl"]) -> Iterator[Callable[[Row], object]]:
    """A function that prints one row on stdout in the layout asked for."""
    if layout == "csv":
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(Row._fields)
        yield lambda row: rows.writerow((row.path, _plain(row.score), row.state))
    elif layout == "jsonl":
        yield lambda row: print(json.dumps(row._asdict()))
    else:
        table = Table(*Row._fields)
        yield lambda row: table.add_row(escape(row.path), f"{row.score:.4f}", row.state)
        Console().print(table)


def _plain(score: float) -> str:
    """The shortest decimal number without an exponent that is this float32."""
    return np.format_float_positional(np.float32(score), trim="0")
