"""Which crops to learn from and which to test on: MRL by subject, and a held-out part of the unlabelled crops."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from training.data.datasets import Crop, DataError, LabelledCrop, labels_of, load_crops, load_mrl
from training.data.duplicates import near_duplicates

SPLIT_FOLDS: Final = 7
HELD_OUT: Final = 0.25  # share of the unlabelled crops that no stage learns from


@dataclass(frozen=True, slots=True)
class Split:
    """Labelled crops, divided so that no subject is in two parts.

    Raises:
        DataError: a crop has no label.
    """

    train: Sequence[LabelledCrop]
    val: Sequence[LabelledCrop]
    test: Sequence[LabelledCrop]

    def __post_init__(self) -> None:
        for name, crops in self.parts().items():
            unlabelled = [crop.name for crop in crops if not isinstance(crop, LabelledCrop)]
            if unlabelled:
                raise DataError(f"{name} has {len(unlabelled)} crops without a label, such as {unlabelled[0]}")

    def parts(self) -> dict[str, Sequence[LabelledCrop]]:
        """The crops by the name of their part."""
        return {"train": self.train, "val": self.val, "test": self.test}


def hold_out(crops: Iterable[Crop]) -> tuple[list[Crop], list[Crop]]:
    """Divide unlabelled crops into a pool to learn from and ``HELD_OUT`` of them to test on, each in its order.

    The hash of a crop's content decides, so it stays on its side whatever crops are added later. What nearly equals a
    held-out crop (``near_duplicates``), such as a re-encoded copy, is in neither.
    """
    crops = list(crops)
    held_out = [int.from_bytes(hashlib.sha256(crop.data).digest()[:8], "big") / 2**64 < HELD_OUT for crop in crops]
    groups = near_duplicates(crops)
    judging = set(groups[held_out].tolist())
    pool = [crop for crop, group in zip(crops, groups.tolist(), strict=True) if group not in judging]
    return pool, [crop for crop, held in zip(crops, held_out, strict=True) if held]


def split_by_subject(crops: Sequence[LabelledCrop]) -> Split:
    """Divide labelled crops into train, val and test without sharing a subject (MRL's crops are video frames).

    scikit-learn's StratifiedGroupKFold makes ``SPLIT_FOLDS`` folds alike in label as far as the subjects allow. The
    two folds that are most informative about new people become test and val: those with the most effective subjects
    (inverse Simpson index of the crops per subject) times the share of the rarer label. The rest is train.

    Raises:
        DataError: a crop has no subject, or there are too few subjects for both labels in every part.
    """
    if any(crop.subject is None for crop in crops):
        raise DataError(
            "cannot split by subject: some crops have no subject in their file name (MRL's form is "
            "sSSSS_NNNNN_G_L_E_R_C_DD.png); a random split would put frames of one video on both sides"
        )
    subjects = np.array([crop.subject for crop in crops])
    labels = labels_of(crops)
    if len(set(subjects)) < SPLIT_FOLDS:
        raise DataError(f"cannot split {len(set(subjects))} subjects; at least {SPLIT_FOLDS} are needed")
    if min(np.bincount(labels, minlength=2)) < SPLIT_FOLDS:
        raise DataError(f"cannot split: at least {SPLIT_FOLDS} crops of each label are needed")

    folding = StratifiedGroupKFold(SPLIT_FOLDS)
    folds = [held_out for _, held_out in folding.split(subjects, labels, subjects)]

    def says_much(fold: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
        _, counts = np.unique(subjects[fold], return_counts=True)
        effective_subjects = float(counts.sum() ** 2 / (counts**2).sum())
        open_share = float(labels[fold].mean())
        return effective_subjects * min(open_share, 1 - open_share)

    test, val, *rest = sorted(folds, key=says_much, reverse=True)
    train = np.sort(np.concatenate(rest))
    split = Split(*([crops[i] for i in part] for part in (train, val, test)))
    if any(len({crop.label for crop in part}) < 2 for part in split.parts().values()):
        raise DataError("cannot split: too few subjects have both open and closed eyes for train, val and test")
    return split


def read_pool(crops: Path) -> list[Crop]:
    """The unlabelled crops that may be learnt from.

    Raises:
        DataError: as ``load_crops``.
    """
    return hold_out(load_crops(crops).crops)[0]


def split_mrl(mrl: Path) -> Split:
    """MRL, split by subject.

    Raises:
        DataError: as ``load_mrl`` and ``split_by_subject``.
    """
    return split_by_subject(load_mrl(mrl).crops)
