"""How a model is judged: on held-out crops, and on people whom the networks that score them have never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from eyestate.bundle import Metric, Thresholds
from training.data.datasets import FAR_SIDE, MRL, LabelledCrop, shrunk
from training.evaluation.eer import equal_error_rate
from training.evaluation.intervals import wilson
from training.evaluation.results import ScoredCrops, Slice, eer_metrics, slice_of, slices
from training.models.strangers import Strangers

HELD_OUT: Final = "all held-out crops"
EASY: Final = "held-out crops on which people agree, the easy part"
STRANGERS: Final = "MRL, people never seen"
STRANGERS_FAR: Final = f"{STRANGERS}, at {FAR_SIDE} px"
FAR_SAMPLE: Final = 3  # where thresholds are chosen, every third of MRL's crops counts again, as seen from afar


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The crops of the unlabelled set that no stage learns from: all, as their collection labels them; the easy part.

    Either is empty where nobody labelled them.
    """

    everything: Sequence[LabelledCrop]
    easy: Sequence[LabelledCrop]


def stranger_sets(labelled: Sequence[LabelledCrop], said: Strangers) -> dict[str, ScoredCrops]:
    """MRL near and from afar and the other collections, scored by networks that never saw their people."""
    everything = ScoredCrops(labelled, said.scores)
    collections = np.array([crop.collection for crop in labelled])
    mrl = collections == MRL
    sets = {STRANGERS: everything.where(mrl), STRANGERS_FAR: ScoredCrops(labelled, said.far).where(mrl)}
    for name in dict.fromkeys(collections[~mrl].tolist()):
        sets[f"{name}, people never seen"] = everything.where(collections == name)
    return sets


def threshold_crops(labelled: Sequence[LabelledCrop], said: Strangers) -> ScoredCrops:
    """What thresholds and calibration are chosen by: MRL's crops, near, and a sample of them from afar."""
    sets = stranger_sets(labelled, said)
    near, far = sets[STRANGERS], sets[STRANGERS_FAR]
    return ScoredCrops(
        [*near.crops, *map(shrunk, far.crops[::FAR_SAMPLE])], np.concatenate([near.scores, far.scores[::FAR_SAMPLE]])
    )


def metrics(sets: Mapping[str, ScoredCrops], thresholds: Thresholds) -> list[Metric]:
    """The EER on each set, then how many crops are uncertain by the thresholds, and how many of the others wrong."""
    found = [metric for name, scored in sets.items() for metric in eer_metrics(f"EER, {name}", scored)]
    for name, scored in sets.items():
        uncertain = (scored.scores > thresholds.closed) & (scored.scores < thresholds.open)
        sure = scored.where(~uncertain)
        found.append(share(f"Uncertain, {name}", uncertain))
        if sure.crops:
            found.append(share(f"Wrong among the sure, {name}", (sure.scores >= thresholds.open) != sure.labels))
    return found


def share(name: str, chosen: np.typing.NDArray[np.bool_]) -> Metric:
    """The share of the crops (N,) that are chosen."""
    found = wilson(int(chosen.sum()), chosen.size)
    assert found is not None  # there is a crop
    return Metric(name=name, value=found.value, low=found.low, high=found.high, n=chosen.size, interval="Wilson, 95 %")


def all_slices(sets: Mapping[str, ScoredCrops]) -> list[Slice]:
    """The slices of every set that is judged by."""
    return [
        *(slice_of(name, "all", "all", scored) for name, scored in sets.items()),
        *(item for name in (HELD_OUT, STRANGERS) if name in sets for item in slices(name, sets[name])),
    ]


def by_person(scored: ScoredCrops) -> list[float]:
    """The EER of each person who has both open and closed eyes, in ascending order."""
    subjects = np.array(scored.subjects)
    parts = [scored.where(subjects == subject) for subject in sorted(set(scored.subjects))]
    return sorted(
        equal_error_rate(part.scores, part.labels) for part in parts if 0 < part.labels.sum() < len(part.crops)
    )
