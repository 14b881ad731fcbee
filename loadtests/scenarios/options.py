"""The options of a run, for Locust's command line and for ``python -m loadtests.scenarios``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple


class Option(NamedTuple):
    """An option; ``read`` converts its text, and raises ValueError if it is invalid."""

    flag: str
    metavar: str
    read: Callable[[str], Any]
    default: Any
    help: str

    @property
    def name(self) -> str:
        """Name of the attribute that holds its value."""
        return self.flag.removeprefix("--").replace("-", "_")


def positive(text: str) -> float:
    """A number above 0."""
    if (value := float(text)) <= 0:
        raise ValueError(text)
    return value


def count(text: str) -> int:
    """An integer of at least 1."""
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    if not 0 <= (value := float(text)) <= 1:
        raise ValueError(text)
    return value


OPTIONS: Final = (
    Option("--factor", "X", positive, 1.0, "Multiply the users of the scenario.  [default: 1]"),
    Option("--seconds", "S", positive, None, "Stretch the scenario to that duration.  [default: the scenario's]"),
    Option("--crops", "PATH", str, None, "Folder, zip or tar of crops to send.  [default: rendered eyes]"),
    Option("--batch", "N", count, 16, "Crops per batch.  [default: 16]"),
    Option(
        "--api-key-file", "FILE", str, None, "File with an API key in its first line; $EYESTATE_API_KEY has precedence."
    ),
    Option("--p95-ms", "MS", positive, None, "Longest p95 of any kind of request.  [default: the scenario's]"),
    Option("--max-errors", "SHARE", share, None, "Share of requests that may fail, 0 to 1.  [default: the scenario's]"),
    Option("--max-refused", "SHARE", share, None, "Share that may be rejected, 0 to 1.  [default: the scenario's]"),
)
