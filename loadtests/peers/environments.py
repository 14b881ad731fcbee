"""Pinned environments for the other servers, separate from the project's own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

from tools.harness.servers import PROJECT, SCRATCH, ServerError

_PINS: Final = {
    "peers": (PROJECT / "requirements" / "serve.txt", PROJECT / "loadtests" / "peers" / "requirements.txt"),
    "mlserver": (PROJECT / "loadtests" / "peers" / "mlserver.txt",),
}


def programs(venv: str) -> Path:
    """The folder of an environment's programs, installed first if it is missing or its pins have changed.

    Raises:
        ServerError: it cannot be installed.
    """
    folder = SCRATCH / "environments" / venv
    stamp = folder / "pins.sha256"
    pins = hashlib.sha256(b"".join(file.read_bytes() for file in _PINS[venv])).hexdigest()
    if not stamp.exists() or stamp.read_text() != pins:
        _install(folder, _PINS[venv])
        stamp.write_text(pins)
    return folder / "bin"


def version(venv: str, package: str) -> str:
    """The version of a package in an environment."""
    lines = [line for file in _PINS[venv] for line in file.read_text().splitlines()]
    return next(line.split()[0].partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def _install(folder: Path, pins: tuple[Path, ...]) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    python = str(folder / "bin" / "python")
    listed = [part for file in pins for part in ("--requirements", str(file))]
    install = [uv, "pip", "install", "--quiet", "--no-config", "--python", python, "--no-deps", "--require-hashes"]
    try:
        for command in ([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], install + listed):
            subprocess.run(command, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        raise ServerError(f"the environment {folder.name} cannot be installed: {error}") from None
