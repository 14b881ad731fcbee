"""Write measurements: JSON for programs, Markdown for people."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from eyestate.atomic import write_atomically
from eyestate.execution import cores
from tools.harness.servers import PROJECT

REPORTS: Final = Path("reports") / "serving"


def conditions(**settings: Any) -> dict[str, Any]:
    """What a figure depends on: date, revision, machine, package versions, and the settings of the run."""
    packages = ("bentoml", "numpy", "onnxruntime-openvino", "onnxruntime-gpu", "starlette", "uvicorn")
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT, capture_output=True, text=True)  # noqa: S607, PLW1510
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_revision": revision.stdout.strip(),
        "cpu": _cpu(),
        "cores": cores(),
        "python": platform.python_version(),
        "versions": {name: version for name in packages if (version := _version(name))},
        "settings": settings,
    }


def describe_conditions(about: dict[str, Any]) -> str:
    """The ``conditions`` of a run in two sentences."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in about["settings"].items())
    return (
        f"Measured {about['measured'][:10]} at revision `{about['git_revision']}` on {about['cores']} cores of "
        f"{about['cpu']}, Python {about['python']}, {versions}. Settings: {settings}."
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are right-aligned figures, None is shown as a dash."""
    lines = [list(head), ["---", *["--:"] * (len(head) - 1)]]
    lines += [["–" if cell is None else str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write_report(folder: Path, name: str, result: dict[str, Any], page: str = "") -> None:
    """Write ``folder/name.json`` and, if a page is given, ``folder/name.md``."""
    write_atomically(folder / f"{name}.json", json.dumps(result, indent=2) + "\n")
    if page:
        write_atomically(folder / f"{name}.md", page)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
