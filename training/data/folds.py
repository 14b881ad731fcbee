"""Deal crops into folds for cross-validation: no person, and no near-duplicate, is in two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from training.data.datasets import Crop, DataError
from training.data.duplicates import near_duplicates

FOLDS: Final = 5

Folds = npt.NDArray[np.int64]


def deal(crops: Sequence[Crop]) -> Folds:
    """The fold of each crop: int64 (N,), 0 to ``FOLDS`` - 1.

    Each collection is dealt on its own, alike in size and label as far as its people allow. Crops of unknown people are
    kept together with their near-duplicates, and dealt whatever is believed of them.

    Raises:
        DataError: a collection has fewer people than folds, or fewer crops of either label.
    """
    folds = np.empty(len(crops), dtype=np.int64)
    collections = np.array([crop.collection for crop in crops])
    for name in sorted(set(collections.tolist())):
        places = np.flatnonzero(collections == name)
        members = [crops[place] for place in places.tolist()]
        groups = _people(members)
        labels = np.array([-1 if crop.subject is None or crop.label is None else crop.label for crop in members])
        if len(set(groups)) < FOLDS or np.unique(labels, return_counts=True)[1].max() < FOLDS:
            raise DataError(
                f"cannot deal the {len(members)} crops of {len(set(groups))} people of {name} into {FOLDS} folds"
            )
        dealt = StratifiedGroupKFold(FOLDS).split(groups, labels, groups)
        for fold, (_, own) in enumerate(dealt):
            folds[places[own]] = fold
    return folds


def _people(crops: Sequence[Crop]) -> list[str]:
    if all(crop.subject is not None for crop in crops):
        return [str(crop.subject) for crop in crops]
    return [f"group {group}" for group in near_duplicates(crops).tolist()]
