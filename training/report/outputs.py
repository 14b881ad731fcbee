"""The outputs of the stages, as far as they exist."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.data.datasets import DataError
from training.data.labels import Answer, Label, read_answers, read_labels
from training.evaluation.eer import Labels, Scores
from training.files import read_json
from training.runs import history


class NotRunError(DataError):
    """A stage was not run; the message names the command that makes what is missing."""

    code = "not_run"

    def __init__(self, what: str, maker: str) -> None:
        super().__init__(f"{what}: not run; `python -m training {maker}` makes it")


@dataclass(frozen=True, slots=True)
class Scored:
    """An attempt's scores (N,) on a test set, the labels (N,) and the fingerprint of the crops."""

    labels: Labels
    scores: Scores
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Runs:
    """The folder of the runs. Every method raises ``NotRunError``, naming ``maker``, where its file is missing."""

    folder: Path

    def json(self, name: str, maker: str) -> Any:
        return read_json(self._existing(name, maker), maker)

    def labels(self, name: str, maker: str) -> list[Label]:
        return read_labels(self._existing(name, maker))

    def answers(self, name: str) -> dict[str, Answer]:
        return read_answers(self._existing(name, "label"))

    def history(self, name: str, maker: str) -> list[dict[str, float]]:
        """Loss and EER of each epoch of a training run, as ``training.runs.history``."""
        self._existing(f"{name}/checkpoints/last.ckpt", maker)
        return history(self.folder / name)

    def png(self, name: str, maker: str) -> bytes:
        return self._existing(name, maker).read_bytes()

    def pngs(self, pattern: str, maker: str) -> dict[str, bytes]:
        """The PNG files that match, by name without suffix, in the order of their names; at least one."""
        found = {path.stem: path.read_bytes() for path in sorted(self.folder.glob(pattern))}
        if not found:
            raise NotRunError(f"`{pattern}`", maker)
        return found

    def scored(self, attempt: str, test: str) -> Scored:
        """The scores that ``compare`` saved."""
        kept = self.json(f"compare/scores/{attempt}-{test}.json", "compare")
        return Scored(np.array(kept["labels"]), np.array(kept["scores"]), kept["key"][0])

    def _existing(self, name: str, maker: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise NotRunError(f"`{name}`", maker)
        return path
