"""The distillation set: augmented views of crops, with the large network's logit for each view.

The teacher answers for the very pixels that the student sees (Beyer et al. 2022, "Knowledge distillation: A good
teacher is patient and consistent"), so any change of a crop is allowed, even one that leaves its label unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from tqdm import tqdm

from eyestate.arrays import Pixels
from eyestate.images import decode, to_input
from eyestate.scorer import Scorer
from training.data.augment import augmentation
from training.data.datasets import Crop, fingerprint
from training.evaluation.logits import Floats, log_odds
from training.files import read_arrays, write_arrays
from training.models.learner import balanced_weights, loader_workers
from training.runs import claim

PART: Final = 4_096  # views in a file; a set that was stopped continues after the last whole one
AS_IT_IS: Final = 0.15  # share of the views that are the crop itself


@dataclass(frozen=True, slots=True)
class DistillationSet:
    """N views.

    Attributes:
        crops: uint8 (N, side, side), grey.
        logits: float32 (N,), log-odds of "open" that the teacher gives, within ±``MAX_LOGIT``.
        labels: float32 (N,), 0 closed or 1 open by the data set, NaN where it has no label.
    """

    crops: Pixels
    logits: Floats
    labels: Floats


class _Views(Dataset[tuple[Pixels, Pixels, float]]):
    """Views of crops as the teacher and as the student take them, with the label of the crop."""

    def __init__(self, crops: Sequence[Crop], sides: tuple[int, int]) -> None:
        self.crops = crops
        self.sides = sides
        self.augment = augmentation()

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[Pixels, Pixels, float]:
        crop = self.crops[index]
        pixels = decode(crop.data)
        if torch.rand(()) >= AS_IT_IS:
            pixels = self.augment(torch.from_numpy(pixels.copy())[None])[0].numpy()
        teacher, student = (np.array(to_input(pixels, side)) for side in self.sides)
        return teacher, student, math.nan if crop.label is None else float(crop.label)


def write_distillation_set(
    crops: Sequence[Crop], teacher: Scorer, output: Path, *, side: int, views: int, own_share: float, seed: int
) -> None:
    """Draw views and record the teacher's logits; an interrupted call continues after its last whole file.

    Args:
        crops: to draw from, balanced as in training (``balanced_weights``).
        teacher: the network to learn from.
        output: the folder of the files; an older set made of something else is moved aside.
        side: width and height of the student's input in pixels.
        views: how many to draw.
        own_share: share of the draws that are crops without a subject.
        seed: of the draws.
    """
    claim(
        output,
        {
            "teacher": {"name": teacher.manifest.name, "sha256": teacher.manifest.sha256},
            "data": fingerprint(crops),
            "side": side,
            "views": views,
            "own_share": own_share,
            "seed": seed,
        },
    )
    weights = balanced_weights(crops, own_share).tolist()
    dataset = _Views(crops, (teacher.side, side))
    parts = [output / f"{number:04d}.npz" for number in range(math.ceil(views / PART))]
    with tqdm(total=views, desc="scoring views", unit="view") as progress:
        for number, path in enumerate(parts):
            n = min(PART, views - number * PART)
            if path.exists():
                progress.update(n)
                continue
            draws = torch.Generator().manual_seed(seed * 1_000_003 + number)
            kept: list[tuple[Pixels, Floats, Floats]] = []
            for shown, crop, labels in _batches(dataset, weights, n, draws):
                kept.append((crop, log_odds(teacher.run(shown)), labels))
                progress.update(len(crop))
            pixels, logits, known = (np.concatenate(each) for each in zip(*kept, strict=True))
            write_arrays(path, crops=pixels, logits=logits, labels=known)


def read_distillation_set(folder: Path) -> DistillationSet:
    """All views of a distillation set.

    Raises:
        DataError: there is none, or a file is damaged.
    """
    paths = sorted(folder.glob("[0-9]*.npz")) or [folder / "0000.npz"]
    parts = [read_arrays(path, "distillation-set") for path in paths]
    return DistillationSet(*(np.concatenate([part[name] for part in parts]) for name in ("crops", "logits", "labels")))


def _batches(
    dataset: _Views, weights: Sequence[float], n: int, draws: torch.Generator
) -> Iterator[tuple[Pixels, Pixels, Floats]]:
    loader = DataLoader(
        dataset,
        batch_size=32,
        sampler=WeightedRandomSampler(weights, n, generator=draws),
        num_workers=max(1, loader_workers()),  # without a worker, views would follow the generator of the process
        generator=draws,
    )
    for shown, crop, labels in loader:
        yield shown.numpy(), crop.numpy(), labels.float().numpy()
