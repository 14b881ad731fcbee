"""The distillation set: views of crops, with the log-odds that every member of a committee gives each view.

The teacher answers for the very pixels that the student sees (Beyer et al. 2022, "Knowledge distillation: A good
teacher is patient and consistent"), so any change of a crop is allowed, even one that leaves its label unknown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from eyestate.arrays import Pixels
from eyestate.bundle import Bundle
from training.data.augment import resize_views, views
from training.data.datasets import Crop, fingerprint
from training.data.folds import Folds
from training.evaluation.logits import MAX_LOGIT, Floats
from training.files import read_arrays, write_arrays
from training.models.committee import Committee, shipped_committee
from training.models.learner import Device, TrainingCrops, balanced_weights, torch_device
from training.runs import claim

PART: Final = 4_096  # views in a file; a set that was stopped continues after the last whole one
BATCH: Final = 128


@dataclass(frozen=True, slots=True)
class DistillationSet:
    """N views.

    Attributes:
        crops: uint8 (N, side, side), grey.
        logits: float32 (N, members), log-odds of "open" by each member of the teacher, within ±``MAX_LOGIT``.
        labels: float32 (N,), 0 closed or 1 open by the data set, NaN where it has no label.
        folds: int64 (N,), of the crops that the views are of: the member of that number never saw them.
    """

    crops: Pixels
    logits: Floats
    labels: Floats
    folds: Folds

    def first(self, n: int) -> DistillationSet:
        """The first n views."""
        return DistillationSet(self.crops[:n], self.logits[:n], self.labels[:n], self.folds[:n])

    def without(self, fold: int) -> DistillationSet:
        """The views of other folds than ``fold``, with the log-odds of the member that never saw that fold, (N, 1)."""
        kept = self.folds != fold
        return DistillationSet(self.crops[kept], self.logits[kept, fold, None], self.labels[kept], self.folds[kept])


def write_distillation_set(
    crops: Sequence[Crop],
    folds: Folds,
    teacher: Bundle,
    output: Path,
    *,
    side: int,
    views_drawn: int,
    shares: Mapping[str, float],
    seed: int,
    device: Device = "auto",
) -> None:
    """Draw views and record the members' log-odds; an interrupted call continues after its last whole file.

    Args:
        crops: to draw from, balanced as in training (``balanced_weights``).
        folds: of the crops (N,), as the teacher's members were dealt them.
        teacher: the bundle of a committee.
        output: the folder of the files; an older set made of something else is moved aside.
        side: width and height of the student's input in pixels.
        views_drawn: how many to draw.
        shares: of the draws, by collection.
        seed: of the draws.
        device: to draw and to ask the members on.

    Raises:
        DataError: ``teacher`` holds no committee, or a collection has no share.
    """
    claim(
        output,
        {
            "teacher": {"name": teacher.manifest.name, "sha256": teacher.manifest.sha256},
            "data": fingerprint(crops),
            "side": side,
            "views": views_drawn,
            "shares": dict(shares),
            "seed": seed,
        },
    )
    paths = [output / f"{number:04d}.npz" for number in range(math.ceil(views_drawn / PART))]
    if all(path.exists() for path in paths):
        return
    committee = shipped_committee(teacher).to(torch_device(device))
    decoded = TrainingCrops(crops)
    weights = balanced_weights(crops, shares)
    labels = np.array([math.nan if crop.label is None else crop.label for crop in crops], dtype=np.float32)
    for number, path in enumerate(tqdm(paths, desc="scoring views", unit="file")):
        if path.exists():
            continue
        with torch.random.fork_rng():
            torch.manual_seed(seed * 1_000_003 + number)
            places = torch.multinomial(weights, min(PART, views_drawn - number * PART), replacement=True)
            drawn, logits = _views(committee, decoded, places, side)
        write_arrays(path, crops=drawn, logits=logits, labels=labels[places], folds=folds[places])


@torch.inference_mode()
def _views(committee: Committee, crops: TrainingCrops, places: torch.Tensor, side: int) -> tuple[Pixels, Floats]:
    drawn, logits = [], []
    for start in range(0, len(places), BATCH):
        seen = views(crops.pixels[places[start : start + BATCH]].to(committee.device))
        said = committee.member_logits(resize_views(seen, committee.side)).clamp(-MAX_LOGIT, MAX_LOGIT)
        drawn.append(resize_views(seen, side).cpu().numpy())
        logits.append(said.T.cpu().numpy())
    return np.concatenate(drawn), np.concatenate(logits).astype(np.float32)


def read_distillation_set(folder: Path) -> DistillationSet:
    """All views of a distillation set.

    Raises:
        DataError: there is none, or a file is damaged.
    """
    paths = sorted(folder.glob("[0-9]*.npz")) or [folder / "0000.npz"]
    parts = [read_arrays(path, "distillation-set") for path in paths]
    whole: dict[str, npt.NDArray[np.generic]] = {
        name: np.concatenate([part[name] for part in parts]) for name in ("crops", "logits", "labels", "folds")
    }
    return DistillationSet(**whole)  # type: ignore[arg-type]  # arrays of the types it was written from
