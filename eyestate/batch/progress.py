"""Progress of a batch job on stderr: a bar on a terminal, a line every few seconds in a log."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

LINE_SECONDS: Final = 10.0


class Progress(AbstractContextManager["Progress"], Protocol):
    """Counts finished rows."""

    def begin(self, total: int, done: int) -> None:
        """Start with ``total`` rows, of which earlier runs have finished ``done``."""

    def advance(self, rows: int) -> None:
        """Count ``rows`` more rows as finished."""

    def note(self, text: str) -> None:
        """Print a message."""


def progress() -> Progress:
    """A bar if stderr is a terminal that can redraw a line, otherwise lines."""
    console = Console(stderr=True)
    return Bar(console) if console.is_terminal and not console.is_dumb_terminal else Lines(console)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} rows/s" if speed else "")


class Bar:
    """A bar with rate and remaining time, removed at the end."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        self._bar = RichProgress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("scoring", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def begin(self, total: int, done: int) -> None:
        self._bar.reset(self._task, total=total, completed=done)

    def advance(self, rows: int) -> None:
        self._bar.advance(self._task, rows)

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Lines:
    """A line every ``LINE_SECONDS``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total = self._done = self._before = 0
        self._began = self._told = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def begin(self, total: int, done: int) -> None:
        self._total, self._done, self._before = total, done, done
        self._began = self._told = time.monotonic()

    def advance(self, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if now - self._told >= LINE_SECONDS:
            self._told = now
            rate = (self._done - self._before) / (now - self._began)
            left = (self._total - self._done) / rate
            self.note(f"{self._done:,} of {self._total:,} rows, {rate:,.0f} rows/s, {left:,.0f} s left")

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
