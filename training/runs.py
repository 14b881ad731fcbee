"""The records of a training run, besides its checkpoints: its inputs, its history, its time."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import torch

from eyestate.atomic import write_atomically
from training.data.datasets import DataError

RECIPE: Final = "run.json"
CURVES: Final = ("train_loss", "val_loss", "train_eer", "val_eer")


def claim(run: Path, recipe: Mapping[str, Any]) -> None:
    """Record the inputs of a new run; a run found in the folder continues if its inputs are the same.

    A run with other inputs is moved to ``<run>.previous``, replacing what is there.

    Args:
        run: the run's folder; made where it is missing.
        recipe: anything that JSON can hold.
    """
    record = run / RECIPE
    if record.exists():
        recorded = json.loads(record.read_text())
        if all(recorded.get(key) == value for key, value in recipe.items()):
            return
        previous = run.with_name(f"{run.name}.previous")
        shutil.rmtree(previous, ignore_errors=True)
        run.rename(previous)
        click.echo(f"{run} held a run with other settings or data; it lies in {previous} now", err=True)
    write_atomically(record, json.dumps({**recipe, "git_revision": git_revision()}, indent=2) + "\n")


def read_recipe(run: Path) -> dict[str, Any]:
    """What a run was made of, with the ``git_revision`` of the code.

    Raises:
        DataError: there is no run in the folder.
    """
    try:
        recipe: dict[str, Any] = json.loads((run / RECIPE).read_text())
    except OSError:
        raise DataError(f"{run} holds no training run") from None
    return recipe


def outcome(run: Path) -> Path:
    """The checkpoint that a run ends with: the best epoch's, or the last one's where none was chosen.

    Raises:
        DataError: there is no finished epoch of a run in the folder.
    """
    for name in ("best.ckpt", "last.ckpt"):
        path = run / "checkpoints" / name
        if path.exists():
            return path
    raise DataError(f"{run} holds no trained classifier; `python -m training train` makes one")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_revision() -> str:
    """The commit this code is at, with ``-dirty`` where files differ from it; ``unknown`` outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        result = subprocess.run(  # noqa: S603  # a fixed command
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


def history(run: Path) -> list[dict[str, float]]:
    """``epoch``, counted from 0, and ``CURVES`` of each finished epoch, however often the run was started.

    Raises:
        DataError: there is no finished epoch of a run in the folder.
    """
    last = run / "checkpoints" / "last.ckpt"
    if not last.exists():
        raise DataError(f"{run} holds no finished epoch of a training run")
    epochs: list[dict[str, float]] = torch.load(last, map_location="cpu", weights_only=True, mmap=True)["history"]
    return epochs


def write_history(epochs: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write ``history`` as CSV, counting epochs from 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("epoch", *CURVES))
        rows.writerows((int(row["epoch"]) + 1, *(f"{row[name]:.5f}" for name in CURVES)) for row in epochs)


def record_time(path: Path, stage: str, seconds: float) -> None:
    """Note in a JSON file how long a stage of the pipeline took, beside the times of the others."""
    times = json.loads(path.read_text()) if path.exists() else {}
    write_atomically(path, json.dumps({**times, stage: round(seconds, 1)}, indent=2) + "\n")
