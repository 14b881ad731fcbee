"""Tools that only npm has, installed once into a folder that git ignores."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

CACHE: Final = Path(__file__).parents[1] / ".bentoml" / "npm"


def installed(name: str, *packages: str) -> Path:
    """The folder ``name`` of the cache with packages, each as ``NAME@VERSION``; skips the test where npm cannot."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed: apt install npm")
    folder = CACHE / name
    stamp = folder / "installed"
    wanted = "\n".join(packages)
    if not stamp.exists() or stamp.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true, "type": "module"}')
        command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--save-exact", *packages]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
        if result.returncode:
            pytest.skip(f"npm cannot install {', '.join(packages)}: {result.stderr.strip()[-300:]}")
        stamp.write_text(wanted)
    return folder
