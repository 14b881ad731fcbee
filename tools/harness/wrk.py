"""Drive a server with wrk: a load generator in C that leaves the cores to the server."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import click

_SCRIPT: Final = Path(__file__).with_name("post.lua")
_PATIENCE: Final = 10  # seconds until wrk counts an answer as timed out

Observed = TypeVar("Observed")


class WrkError(click.ClickException):
    """wrk is not installed, or could not do its work."""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw. Latencies are of all answers, whatever their status."""

    seconds: float
    statuses: dict[str, int]
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: dict[str, int]

    @property
    def requests_per_second(self) -> float:
        """Answers with a status of 2xx per second: others are no service."""
        return sum(count for status, count in self.statuses.items() if status.startswith("2")) / self.seconds


def drive(
    url: str, body: bytes, content_type: str, *, connections: int, seconds: float, observe: Callable[[], Observed]
) -> tuple[Load, Observed]:
    """POST ``body`` over so many keep-alive connections, each with one request at a time.

    Args:
        url: an http URL of the loopback interface.
        body, content_type: of every request.
        connections: kept busy, all by one thread.
        seconds: how long; wrk takes whole seconds.
        observe: called once, shortly before the end, while the load is on.

    Raises:
        WrkError: wrk is missing or failed.
    """
    if not (wrk := shutil.which("wrk")):
        raise WrkError("wrk is not installed; it is the Debian package wrk: apt install wrk")
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        options = ["--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"]
        options += ["--timeout", f"{_PATIENCE}s", "--script", str(_SCRIPT)]
        command = [wrk, *options, url, "--", file.name, content_type]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
            try:
                process.wait(max(0.5, seconds * 0.8))
            except subprocess.TimeoutExpired:
                observed = observe()
            else:
                raise WrkError(f"wrk ended early: {process.communicate()[1]}")
            printed, complaint = process.communicate(timeout=seconds + 2 * _PATIENCE)
    if process.returncode:
        raise WrkError(f"wrk failed: {complaint}")
    return parse(printed), observed


def parse(printed: str) -> Load:
    """What ``post.lua`` wrote, out of all that wrk prints.

    Raises:
        WrkError: there is no such line.
    """
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    if len(lines) != 1:
        raise WrkError(f"wrk printed no result:\n{printed}")
    found = json.loads(lines[0])
    found["statuses"] = dict(sorted(found["statuses"].items()))
    return Load(**found)
