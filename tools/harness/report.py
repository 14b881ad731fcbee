"""Write measurements: JSON for programs, Markdown for people."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

from eyestate.atomic import write_atomically
from eyestate.bundle import Bundle, CascadeBundle
from eyestate.execution import cores
from eyestate.mtcnn import FaceDetector

Model: TypeAlias = Bundle | CascadeBundle | FaceDetector

REPORTS: Final = Path("reports") / "serving"


_INSTRUCTIONS: Final = {  # by the flags of Linux, the widest first
    "AMX": {"amx_tile", "amx_bf16"},
    "AVX-512 BF16": {"avx512f", "avx512_bf16"},
    "AVX-512": {"avx512f"},
    "AVX2": {"avx2", "fma"},
}


def conditions(*models: Model, **settings: Any) -> dict[str, Any]:
    """What a figure depends on: date, models, machine, package versions, and the settings of the run.

    Args:
        models: what was measured; their names, versions and SHA-256 tell whether they are the ones that ship.
        settings: of the run.
    """
    packages = ("bentoml", "numpy", "onnxruntime-openvino", "onnxruntime-gpu", "starlette", "uvicorn")
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "models": [identity(model) for model in models],
        "cpu": f"{cpu()} ({instructions()})",
        "cores": cores(),
        "python": platform.python_version(),
        "versions": {name: version for name in packages if (version := _version(name))},
        "settings": settings,
    }


def identity(model: Model) -> dict[str, str]:
    """Name, version and SHA-256 of a model; the face detector's is that of the digests of its networks."""
    if isinstance(model, FaceDetector):
        digest = hashlib.sha256("".join(model.description.networks.values()).encode()).hexdigest()
        return {"name": model.description.name, "version": model.description.version, "sha256": digest}
    return {"name": model.manifest.name, "version": model.manifest.version, "sha256": model.manifest.sha256}


def describe_models(about: dict[str, Any]) -> str:
    """The models that were measured, with versions and the first digits of their SHA-256.

    Reports of version 1.0 name none.
    """
    if "models" not in about:
        return "models of version 1.0"
    found = [f"`{each['name']}` {each['version']} (SHA-256 `{each['sha256'][:12]}`)" for each in about["models"]]
    return " and ".join(found) or "no model"


def describe_conditions(about: dict[str, Any]) -> str:
    """The ``conditions`` of a run in two sentences."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in about["settings"].items())
    machine = f"{about['cores']} cores of {about['cpu']}, Python {about['python']}, {versions}"
    return f"Measured {about['measured'][:10]}, {describe_models(about)}, on {machine}. Settings: {settings}."


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


def cpu() -> str:
    """The name of the processor."""
    return _processor("model name") or platform.processor() or "unknown CPU"


def instructions() -> str:
    """The widest instructions of the processor that networks gain from, which its name does not tell."""
    flags = set(_processor("flags").split())
    return next((name for name, needed in _INSTRUCTIONS.items() if needed <= flags), platform.machine())


def by_processor(report: str) -> str:
    """The name of a report of which there is one for each kind of processor."""
    return f"{report}-{instructions().lower().replace(' ', '-')}"


def _processor(what: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(what)), "")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
