"""What all training shares: a network followed by its loss and EER, loaders of crops, the training loop, prediction."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from eyestate.execution import has_bfloat16
from eyestate.images import decode, to_input
from training.data.augment import augmentation
from training.data.datasets import Crop, LabelledCrop
from training.evaluation.eer import EqualErrorRate, Scores
from training.runs import CURVES, outcome

Precision = Literal["bf16-mixed", "32-true"]
MAX_WORKERS: Final = 8


def fastest_precision() -> Precision:
    """The precision that a large network trains fastest in on this machine.

    Where the processor has no instructions for it, bfloat16 is several times slower than float32.
    """
    return "bf16-mixed" if has_bfloat16() or torch.cuda.is_available() else "32-true"


def loader_workers() -> int:
    """How many processes prepare batches: a core is left to the training itself."""
    return max(1, min(MAX_WORKERS, (os.cpu_count() or 1) - 1))


class Learner(pl.LightningModule):
    """A network whose loss and EER are followed by epoch; the curves travel in its checkpoints.

    Attributes:
        side: width and height in pixels of the crops it takes.
    """

    side: int

    def __init__(self) -> None:
        super().__init__()
        self.train_eer = EqualErrorRate()
        self.val_eer = EqualErrorRate()
        self.history: list[dict[str, float]] = []

    def p_open(self, crops: torch.Tensor) -> torch.Tensor:
        """uint8 grey crops (N, side, side) to P(open) (N,), float32 in [0, 1]."""
        raise NotImplementedError

    def apply_temperature(self, temperature: float) -> None:
        """Divide the logits by a temperature for good, by way of the last layer's weights."""
        raise NotImplementedError

    def judge(
        self, part: Literal["train", "val"], loss: torch.Tensor, scores: torch.Tensor, targets: torch.Tensor
    ) -> None:
        """Log the loss of a batch and its scores (N,), P(open), against its targets (N,), in [0, 1]."""
        eer = self.train_eer if part == "train" else self.val_eer
        eer.update(scores, targets.round().long())
        self.log(f"{part}_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(targets))
        self.log(f"{part}_eer", eer, on_step=False, on_epoch=True, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        metrics = self.trainer.callback_metrics
        self.history.append({"epoch": self.current_epoch, **{name: float(metrics[name]) for name in CURVES}})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]

    def one_cycle(self, learning_rate: float, weight_decay: float) -> pl.utilities.types.OptimizerLRScheduler:
        """AdamW under the one-cycle schedule (Smith and Topin 2018) with its peak at ``learning_rate``."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=learning_rate,
            total_steps=steps,
            pct_start=0.1
            if steps > 20
            else 0.3,  # a rise of a single step, 0.1 of 10, would be divided by its length 0
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def divide(layer: torch.nn.Linear, divisor: float) -> None:
    """Divide what a layer answers, in place."""
    with torch.no_grad():
        layer.weight.div_(divisor)
        layer.bias.div_(divisor)


class CropDataset(Dataset[tuple[torch.Tensor, float]]):
    """Crops as model input, uint8 (side, side), augmented where asked, and the P(open) to learn, NaN where unknown."""

    def __init__(self, crops: Sequence[Crop], side: int, *, augmented: bool) -> None:
        self.crops = crops
        self.side = side
        self.augment = augmentation() if augmented else None

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, float]:
        crop = self.crops[index]
        pixels = decode(crop.data)
        if self.augment is not None:
            pixels = self.augment(torch.from_numpy(pixels.copy())[None])[0].numpy()
        known = crop.label if crop.target is None else crop.target
        target = math.nan if known is None else float(known)
        return torch.from_numpy(to_input(pixels, self.side).copy()), target


def balanced_weights(crops: Sequence[Crop], own_share: float = 0.5) -> torch.Tensor:
    """Sampling weights (N,) under which both labels are drawn equally often.

    Within a label, a subject's share grows with the square root of its crops: the few people with thousands of video
    frames must not drown the others, and ten frames must not be repeated hundreds of times. Crops without a subject,
    each perhaps of another person, are drawn ``own_share`` of the time where there are crops of both kinds.
    """
    groups = [(crop.subject is None, crop.label, crop.subject) for crop in crops]
    members = Counter(groups)
    mass: Counter[tuple[bool, int | None]] = Counter()
    for (own, label, _), n in members.items():
        mass[own, label] += n**0.5
    share = {True: own_share, False: 1 - own_share} if len({own for own, _, _ in groups}) == 2 else {True: 1, False: 1}
    return torch.tensor([share[g[0]] * members[g] ** -0.5 / mass[g[:2]] for g in groups], dtype=torch.float64)


def train_loader(
    crops: Sequence[LabelledCrop], side: int, *, batch_size: int, draws: int, own_share: float
) -> DataLoader[tuple[torch.Tensor, float]]:
    """So many draws of crops (``balanced_weights``), augmented, in whole batches."""
    workers = loader_workers()
    return DataLoader(
        CropDataset(crops, side, augmented=True),
        batch_size=batch_size,
        sampler=WeightedRandomSampler(balanced_weights(crops, own_share).tolist(), draws),
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=True,
    )


def evaluation_loader(crops: Sequence[Crop], side: int) -> DataLoader[tuple[torch.Tensor, float]]:
    """The crops in order, as they are, in batches."""
    return DataLoader(CropDataset(crops, side, augmented=False), batch_size=128)


def fit(
    model: Learner,
    train_batches: DataLoader[Any],
    validation_batches: DataLoader[Any],
    output: Path,
    *,
    epochs: int,
    patience: int,
    average_decay: float,
    precision: Precision,
) -> Path:
    """Train a network; a run found in ``output`` continues after its last whole epoch.

    Args:
        model: what to train.
        train_batches, validation_batches: to train on, and to evaluate after each epoch.
        output: the run's folder.
        epochs: to train for.
        patience: epochs without a better validation EER before stopping; 0 trains to the end and keeps that.
        average_decay: of the moving average of the weights, per step; the average is what is evaluated and kept.
        precision: of the computation.

    Returns:
        The checkpoint that the run ends with.
    """
    # ModelCheckpoint's own save_last writes only when the best improves: a kill would cost the epochs since then.
    kept: list[pl.Callback] = [
        ModelCheckpoint(
            output / "checkpoints", filename="last", save_on_train_epoch_end=True, enable_version_counter=False
        )
    ]
    if patience:
        kept += [
            ModelCheckpoint(output / "checkpoints", filename="best", monitor="val_eer", enable_version_counter=False),
            EarlyStopping("val_eer", patience=patience),
        ]
    trainer = pl.Trainer(
        max_epochs=epochs,
        precision=precision,
        callbacks=[
            *kept,
            EMAWeightAveraging(decay=average_decay),
            LearningRateMonitor("epoch"),
            TQDMProgressBar(refresh_rate=8),
        ],
        logger=[CSVLogger(output, name="csv"), TensorBoardLogger(output, name="tensorboard", version="")],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )
    last = output / "checkpoints" / "last.ckpt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # that is how to resume
        trainer.fit(
            model, train_batches, validation_batches, ckpt_path=last if last.exists() else None, weights_only=True
        )
    return outcome(output)


@torch.inference_mode()
def predict(model: Learner, crops: Sequence[Crop]) -> Scores:
    """P(open) of each crop (N,), float64 in [0, 1], computed in float32."""
    batches = evaluation_loader(crops, model.side)
    return np.concatenate([np.empty(0), *(model.p_open(batch).double().numpy() for batch, _ in batches)])
