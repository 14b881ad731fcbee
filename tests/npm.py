"""Tools that only npm has, installed once into a folder that git ignores."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import pytest

CACHE: Final = Path(__file__).parents[1] / ".bentoml" / "npm"
_INSTALL_SECONDS: Final = 120  # where no registry can be reached, npm tries for longer


def installed(name: str, *packages: str) -> Path:
    """The folder ``name`` of the cache with packages, each as ``NAME@VERSION``; skips the test where npm cannot."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed: apt install npm")
    if reason := _install(CACHE / name, packages):
        pytest.skip(f"npm cannot install {', '.join(packages)}: {reason}")
    return CACHE / name


@cache
def _install(folder: Path, packages: tuple[str, ...]) -> str:
    """Put packages into a folder, unless they are there; tells why it could not, else nothing."""
    stamp, wanted = folder / "installed", "\n".join(packages)
    if stamp.exists() and stamp.read_text() == wanted:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--save-exact", *packages]
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"it takes more than {_INSTALL_SECONDS} s"
    if result.returncode:
        return result.stderr.strip()[-300:]
    stamp.write_text(wanted)
    return ""
