"""Distil a large network into one made for eye crops, a hundredth of its cost.

The student is trained towards what the teacher says of each view (``training.models.distillation_set``), and where the
data set has a label, towards that too. Hinton et al. 2015; blocks after Ding et al. 2021, "RepVGG": several branches
while it is trained, one convolution each when it ships, which is the shape that CPUs compute fastest.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import optuna
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from training.data.datasets import DataError, LabelledCrop, TrainingSource, fingerprint
from training.data.folds import deal
from training.models.distillation_set import DistillationSet, read_distillation_set
from training.models.learner import Device, Learner, LogitLearner, OneLogit, evaluation_loader, fit, torch_device
from training.models.strangers import sample, score_strangers
from training.runs import RECIPE, claim, history, sha256
from training.studies import open_studies

SIDE: Final = 32  # pixels of the student's input
FLAT: Final = 10.0  # variance of the grey values, added before a crop is standardised, so that noise is not blown up
SHIFT: Final = 1  # pixels by which a view is moved at most, for the teacher's answer holds a little beside it


@dataclass(frozen=True, slots=True)
class StudentSettings:
    """Everything that decides what a distillation computes; a run resumes only under equal settings."""

    width: int = 16  # channels of the first block; the others are multiples of it
    depth: int = 1  # blocks at each resolution after the one that reaches it
    epochs: int = 40
    fold_epochs: int = 10  # of the students that measure what a student says of strangers
    batch_size: int = 256
    learning_rate: float = 9e-3  # peak of the one-cycle schedule
    weight_decay: float = 4e-3
    temperature: float = 1.0  # the teacher's and the student's logits are divided by it in the loss
    label_share: float = 0.25  # weight of the data set's label against the teacher's word, where there is a label
    average_decay: float = 0.999  # of the moving average of the weights, per step; the average is evaluated and kept
    seed: int = 0


class Block(nn.Module):
    """A convolution, its batch norm and ReLU; with 1×1 and identity branches beside it until ``fused``."""

    def __init__(self, channels: int, filters: int, side: int, stride: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_Normed(channels, filters, side, stride), _Normed(channels, filters, 1, stride)])
        self.identity = nn.BatchNorm2d(filters) if stride == 1 and channels == filters else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.branches[0](x) + self.branches[1](x)
        return torch.relu(y if self.identity is None else y + self.identity(x))

    def fused(self) -> nn.Sequential:
        """The same function in evaluation mode as one convolution and ReLU."""
        wide, narrow = (branch.folded() for branch in self.branches)  # type: ignore[operator]  # _Normed
        weight, bias = wide.weight.clone(), wide.bias.clone()
        centre = weight.shape[-1] // 2
        weight[:, :, centre, centre] += narrow.weight[:, :, 0, 0]
        bias += narrow.bias
        if self.identity is not None:
            scale, offset = _affine(self.identity)
            weight[:, :, centre, centre] += torch.diag(scale)
            bias += offset
        return nn.Sequential(_convolution(weight, bias, wide.stride), nn.ReLU())


class _Normed(nn.Sequential):
    """A convolution and its batch norm."""

    def __init__(self, channels: int, filters: int, side: int, stride: int) -> None:
        super().__init__(nn.Conv2d(channels, filters, side, stride, side // 2, bias=False), nn.BatchNorm2d(filters))

    def folded(self) -> nn.Conv2d:
        conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        scale, offset = _affine(norm)
        return _convolution(conv.weight.detach() * scale[:, None, None, None], offset, conv.stride)


def _affine(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """What a batch norm multiplies by and adds in evaluation mode, (channels,) each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias.detach() - norm.running_mean * scale


def _convolution(weight: torch.Tensor, bias: torch.Tensor, stride: tuple[int, ...]) -> nn.Conv2d:
    filters, channels, side, _ = weight.shape
    conv = nn.Conv2d(channels, filters, side, stride[0], side // 2)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = nn.Parameter(bias, requires_grad=False)
    return conv


class Network(OneLogit):
    """uint8 grey crops (N, ``SIDE``, ``SIDE``) to logits of "open" (N,).

    Each crop is standardised first, so brightness and contrast do not matter. A large first convolution at half the
    resolution, then 3×3 ones at an eighth down to 4×4; the mean over the places decides.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        blocks = [Block(1, width, 5, 2)]
        channels = width
        for filters in (2 * width, 4 * width):
            blocks.append(Block(channels, filters, 3, 2))
            blocks += [Block(filters, filters, 3, 1) for _ in range(depth)]
            channels = filters
        self.blocks = nn.Sequential(*blocks)
        self.decide = nn.Linear(channels, 1)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.layer_norm(crops.float(), (SIDE, SIDE), eps=FLAT).unsqueeze(1)
        logits: torch.Tensor = self.decide(self.blocks(x).mean(dim=(2, 3)))
        return logits.squeeze(1)

    def fused(self) -> Network:
        """The same function with one convolution a block: what ships."""
        slim = Network.__new__(Network)
        nn.Module.__init__(slim)
        slim.blocks = nn.Sequential(*(block.fused() for block in self.blocks))  # type: ignore[operator]  # a Block
        slim.decide = self.decide
        return slim.eval()


class Student(LogitLearner):
    """A network that learns from a distillation set; batches are crops, and P(open) to learn (NaN where unknown)."""

    network: Network

    def __init__(self, settings: Mapping[str, int | float]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.settings = StudentSettings(**settings)  # type: ignore[arg-type]  # the checkpoint stores plain values
        self.side = SIDE
        self.network = Network(self.settings.width, self.settings.depth)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:  # noqa: ARG002
        crops, teacher_logits, labels = batch
        logits, heat = self(crops), self.settings.temperature
        distillation = nn.functional.binary_cross_entropy_with_logits(
            logits / heat, (teacher_logits / heat).sigmoid(), reduction="none"
        )
        known = labels.isfinite()
        targets = torch.where(known, labels, teacher_logits.sigmoid())
        labelled = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        share = known * self.settings.label_share
        loss = ((1 - share) * distillation * heat**2 + share * labelled).mean()
        self.judge("train", loss, logits.sigmoid(), targets)
        return loss

    def configure_optimizers(self) -> pl.utilities.types.OptimizerLRScheduler:
        return self.one_cycle(self.settings.learning_rate, self.settings.weight_decay)


class _Batches(Dataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    """Whole batches of a distillation set: mirrored one by one, moved by up to ``SHIFT`` pixels together."""

    def __init__(self, views: DistillationSet) -> None:
        teacher = views.logits.mean(axis=1)
        self.crops, self.logits, self.labels = map(torch.from_numpy, (views.crops, teacher, views.labels))

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, places: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        crops = self.crops[places]
        mirrored = torch.rand(len(places)) < 0.5
        crops[mirrored] = crops[mirrored].flip(-1)
        down, right = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
        padded = nn.functional.pad(crops, [SHIFT] * 4, "replicate") if down or right else None
        if padded is not None:
            crops = padded[:, SHIFT + down : SHIFT + down + SIDE, SHIFT + right : SHIFT + right + SIDE]
        return crops, self.logits[places], self.labels[places]


def _loader(views: DistillationSet, batch_size: int) -> DataLoader[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    batches = _Batches(views)
    order = BatchSampler(RandomSampler(batches), batch_size, drop_last=True)
    return DataLoader(batches, sampler=order, batch_size=None)


def distil(
    distillation_set: Path,
    labelled: Sequence[LabelledCrop],
    learnt_from: Sequence[TrainingSource],
    settings: StudentSettings,
    output: Path,
    *,
    device: Device = "auto",
) -> Path:
    """Train a student to the end of its schedule; a killed run continues after its last whole epoch.

    Before it, one student a fold is trained for a shorter time on the views of the other folds, towards the member of
    the teacher that never saw that fold: what they say of it is what a student says of strangers.

    Args:
        distillation_set: its folder.
        labelled: the crops of people that its views were drawn from, in the order in which they were dealt into folds.
        learnt_from: what its views were drawn from, to record.
        settings: of the students.
        output: the folder of the run; ``fold_<k>`` are those of the others, ``strangers.npz`` is what they say.
        device: to train on.

    Returns:
        The checkpoint.

    Raises:
        DataError: there is no distillation set, or its views have another size.
    """
    views = read_distillation_set(distillation_set)
    if views.crops.shape[1:] != (SIDE, SIDE):
        raise DataError(
            f"{distillation_set} holds views of {views.crops.shape[1:]} pixels; the student takes {SIDE}×{SIDE}"
        )
    claim(
        output,
        {
            "settings": dataclasses.asdict(settings),
            "distillation_set": sha256(distillation_set / RECIPE),
            "teacher": json.loads((distillation_set / RECIPE).read_text())["teacher"],
            "views": len(views.crops),
            "data": fingerprint(labelled),
            "sources": [dataclasses.asdict(source) for source in learnt_from],
        },
    )
    short = dataclasses.replace(settings, epochs=settings.fold_epochs)

    def stranger(fold: int, unseen: Sequence[LabelledCrop], run: Path) -> Learner:
        return load_student(_train(views.without(fold), sample(unseen), short, run, device)).to(torch_device(device))

    score_strangers(labelled, output, stranger)
    return _train(views, sample(labelled), settings, output, device)


def _train(
    views: DistillationSet,
    monitored: Sequence[LabelledCrop],
    settings: StudentSettings,
    output: Path,
    device: Device,
) -> Path:
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    return fit(
        Student(dataclasses.asdict(settings)),
        _loader(views, settings.batch_size),
        evaluation_loader(monitored, SIDE),
        output,
        epochs=settings.epochs,
        patience=0,
        average_decay=settings.average_decay,
        precision="32-true",
        device=device,
    )


def load_student(checkpoint: Path) -> Student:
    """A trained student as it ships, one convolution a block, loaded without pickle execution."""
    student = Student.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True).eval()
    student.network = student.network.fused()
    return student


def suggest(trial: optuna.trial.BaseTrial) -> dict[str, float]:
    """The space that is searched: what a distillation depends on most, small enough for a dozen trials."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
        "temperature": trial.suggest_categorical("temperature", [1.0, 2.0, 4.0]),
        "label_share": trial.suggest_categorical("label_share", [0.0, 0.25, 0.5]),
    }


def tune(
    distillation_set: Path,
    labelled: Sequence[LabelledCrop],
    settings: StudentSettings,
    output: Path,
    table: Path,
    *,
    views: int,
    trials: int,
) -> dict[str, float]:
    """Search ``suggest``'s space for the lowest validation EER by short distillations on a part of the set.

    A search that was stopped continues with its next trial. Each trial has a sampler (TPE, Bergstra et al. 2011) seeded
    by its number.

    Args:
        distillation_set: its folder.
        labelled: the crops of people that its views were drawn from; those of one fold, whose views are left out,
            judge.
        settings: of each trial, but for what is searched.
        views: how many of its views, the first ones, to learn from.
        trials: to have in the end.
        output: the folder of the search.
        table: the CSV file to write, a row for each trial.

    Returns:
        The lowest EER and what was chosen for it.

    Raises:
        DataError: there is no distillation set.
    """
    part = read_distillation_set(distillation_set).first(views).without(0)
    unseen = sample([crop for crop, fold in zip(labelled, deal(labelled), strict=True) if fold == 0])
    output.mkdir(parents=True, exist_ok=True)

    def objective(trial: optuna.Trial) -> float:
        chosen = dataclasses.replace(settings, **suggest(trial))  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory(dir=output) as scratch:
            run = Path(scratch)
            _train(part, unseen, chosen, run, "auto")
            eer = history(run)[-1]["val_eer"]
            return eer if math.isfinite(eer) else 1.0  # undefined where the validation crops lack a class

    with open_studies(output / "study.sqlite") as storage:
        study = optuna.create_study(study_name="student", storage=storage, load_if_exists=True)
        while (number := len(study.get_trials(states=[optuna.trial.TrialState.COMPLETE]))) < trials:
            study.sampler = optuna.samplers.TPESampler(seed=settings.seed + number)
            study.optimize(objective, n_trials=1)
        table.parent.mkdir(parents=True, exist_ok=True)
        study.trials_dataframe(("number", "value", "params", "state")).to_csv(table, index=False)
        return {"eer": study.best_value, **study.best_params}
