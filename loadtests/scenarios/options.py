"""The options of a run, for Locust's command line and for ``python -m loadtests.scenarios``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple


class Option(NamedTuple):
    """An option: ``read`` makes its value of the text, and raises ValueError where that is none."""

    flag: str
    metavar: str
    read: Callable[[str], Any]
    default: Any
    help: str

    @property
    def name(self) -> str:
        """Of the attribute that holds its value."""
        return self.flag.removeprefix("--").replace("-", "_")


def positive(text: str) -> float:
    """A number above 0."""
    if (value := float(text)) <= 0:
        raise ValueError(text)
    return value


def count(text: str) -> int:
    """A whole number of at least 1."""
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    if not 0 <= (value := float(text)) <= 1:
        raise ValueError(text)
    return value


OPTIONS: Final = (
    Option("--factor", "X", positive, 1.0, "X times as many callers as the scenario has.  [default: 1]"),
    Option("--seconds", "S", positive, None, "Stretch the scenario to so many seconds.  [default: the scenario's own]"),
    Option("--crops", "PATH", str, None, "Folder, zip or tar of crops to send.  [default: synthetic_images eyes]"),
    Option("--batch", "N", count, 16, "Crops in a batch.  [default: 16]"),
    Option("--api-key-file", "FILE", str, None, "Send its first line as API key; $EYESTATE_API_KEY goes before it."),
    Option("--p95-ms", "MS", positive, None, "Longest p95 of any kind of request.  [default: the scenario's]"),
    Option("--max-errors", "SHARE", share, None, "Share of requests that may fail, 0 to 1.  [default: the scenario's]"),
    Option("--max-refused", "SHARE", share, None, "Share that may be refused, 0 to 1.  [default: the scenario's]"),
)
