"""Drive a server with wrk, a load generator in C that leaves the CPU to the server."""

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
_TIMEOUT_SECONDS: Final = 10  # after which wrk counts a request as timed out

Observed = TypeVar("Observed")


class WrkError(click.ClickException):
    """wrk is not installed, or it failed."""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk measured. Latencies cover all responses, whatever their status."""

    seconds: float
    statuses: dict[str, int]
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: dict[str, int]

    @property
    def requests_per_second(self) -> float:
        """Responses with status 2xx per second."""
        return sum(count for status, count in self.statuses.items() if status.startswith("2")) / self.seconds


def drive(
    url: str, body: bytes, content_type: str, *, connections: int, seconds: float, observe: Callable[[], Observed]
) -> tuple[Load, Observed]:
    """POST ``body`` over that many keep-alive connections, each with one request at a time.

    Args:
        url: an http URL on the loopback interface.
        body, content_type: of every request.
        connections: kept busy by a single thread.
        seconds: duration; wrk accepts whole seconds.
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
        options += ["--timeout", f"{_TIMEOUT_SECONDS}s", "--script", str(_SCRIPT)]
        command = [wrk, *options, url, "--", file.name, content_type]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
            try:
                process.wait(max(0.5, seconds * 0.8))
            except subprocess.TimeoutExpired:
                observed = observe()
            else:
                raise WrkError(f"wrk exited early: {process.communicate()[1]}")
            printed, complaint = process.communicate(timeout=seconds + 2 * _TIMEOUT_SECONDS)
    if process.returncode:
        raise WrkError(f"wrk failed: {complaint}")
    return parse(printed), observed


def parse(printed: str) -> Load:
    """The result line that ``post.lua`` printed, from the whole output of wrk.

    Raises:
        WrkError: there is no such line.
    """
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    if len(lines) != 1:
        raise WrkError(f"wrk printed no result:\n{printed}")
    found = json.loads(lines[0])
    found["statuses"] = dict(sorted(found["statuses"].items()))
    return Load(**found)
