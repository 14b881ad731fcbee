"""What networks say of people they have never seen: one network a fold, each scoring the fold that it was not shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from training.data.datasets import Crop, DataError, LabelledCrop, shrunk
from training.data.folds import FOLDS, Folds, deal
from training.evaluation.eer import Scores
from training.files import read_arrays, write_arrays
from training.models.learner import Learner, predict, predict_views

MONITORED: Final = 1_000  # crops by which a training is followed
FILE: Final = "strangers.npz"


@dataclass(frozen=True, slots=True)
class Strangers:
    """What was said of labelled crops by the network that never saw their people.

    Attributes:
        scores: P(open) of each crop (N,).
        far: the same of the crops shrunk to ``FAR_SIDE`` px.
        folds: int64 (N,).
    """

    scores: Scores
    far: Scores
    folds: Folds

    @classmethod
    def read(cls, path: Path, labelled: Sequence[LabelledCrop], made_by: str = "committee") -> Strangers:
        """What ``write`` wrote.

        Args:
            path: the file.
            labelled: the crops that were scored.
            made_by: the command that makes the file, for the error.

        Raises:
            DataError: the file is missing or damaged, or about other crops.
        """
        found = read_arrays(path, made_by)
        if len(found["scores"]) != len(labelled):
            raise DataError(f"{path} is about {len(found['scores'])} labelled crops, not these {len(labelled)}")
        return cls(found["scores"].astype(np.float64), found["far"].astype(np.float64), found["folds"])

    def write(self, path: Path) -> None:
        """Write the arrays as ``.npz``."""
        write_arrays(path, scores=self.scores, far=self.far, folds=self.folds)


def score_strangers(
    labelled: Sequence[LabelledCrop],
    output: Path,
    train: Callable[[int, Sequence[LabelledCrop], Path], Learner],
    *,
    pool: Sequence[Crop] = (),
) -> Scores:
    """Train a network a fold and score the fold with it; a killed call continues where it was.

    Args:
        labelled: crops of people.
        output: ``fold_<k>`` are the folders of the networks, ``strangers.npz`` is what is returned.
        train: makes the network of a fold, given its number, its crops, which the network must not learn from, and the
            folder of its run.
        pool: unlabelled crops to score by each network too.

    Returns:
        What the networks said of the pool, (FOLDS, M) float64; what they said of strangers is in ``output``.
    """
    folds = deal(labelled)
    scores, far = np.zeros(len(labelled)), np.zeros(len(labelled))
    said_of_pool = np.zeros((FOLDS, len(pool)))
    for fold in range(FOLDS):
        own = np.flatnonzero(folds == fold)
        found = output / f"fold_{fold}" / "scores.npz"
        if not found.exists():
            unseen = [labelled[place] for place in own.tolist()]
            network = train(fold, unseen, found.parent)
            far_away = [shrunk(crop) for crop in unseen]
            write_arrays(
                found, own=predict(network, unseen), far=predict(network, far_away), pool=predict_views(network, pool)
            )
        said = read_arrays(found, "committee")
        scores[own], far[own], said_of_pool[fold] = said["own"], said["far"], said["pool"]
    Strangers(scores, far, folds).write(output / FILE)
    return said_of_pool


def sample(crops: Sequence[LabelledCrop], size: int = MONITORED) -> Sequence[LabelledCrop]:
    """About ``size`` of the crops, evenly spaced; all where there are not so many."""
    return crops[:: max(1, len(crops) // size)]
