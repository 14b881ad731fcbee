"""What all training shares: a network followed by its loss and EER, batches of crops, the training loop, prediction."""

from __future__ import annotations

import math
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, Literal

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
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, WeightedRandomSampler
from torchvision.transforms import v2
from tqdm import tqdm

from eyestate.execution import has_bfloat16
from eyestate.images import decode, decode_rgb, to_input
from training.data.augment import STORED, augment
from training.data.datasets import Crop, DataError
from training.evaluation.eer import EqualErrorRate, Scores
from training.runs import CURVES, outcome

Precision = Literal["bf16-mixed", "32-true"]
Device = Literal["auto", "cpu", "cuda"]


def torch_device(device: Device) -> torch.device:
    """Where to compute; ``auto`` is a GPU if there is one.

    Raises:
        DataError: a GPU is asked for, and PyTorch finds none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError("PyTorch finds no GPU; give --device cpu or auto (`device` in params.yaml)")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def fastest_precision(device: Device) -> Precision:
    """The precision that a large network trains fastest in on this machine.

    Where the processor has no instructions for it, bfloat16 is several times slower than float32.
    """
    return "bf16-mixed" if torch_device(device).type == "cuda" or has_bfloat16() else "32-true"


class SharpnessAware(torch.optim.AdamW):
    """AdamW by the gradient at about the worst place within a radius of the weights, at twice the cost of a step.

    Foret et al. 2021, "Sharpness-aware minimization for efficiently improving generalization".
    """

    def __init__(self, *args: Any, radius: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.radius = radius

    @torch.no_grad()
    def step(self, closure: Callable[[], torch.Tensor]) -> torch.Tensor:  # type: ignore[override]  # not optional
        """Take a step; ``closure`` computes the loss and its gradients anew."""
        with torch.enable_grad():
            loss = closure()
        weights = [weight for group in self.param_groups for weight in group["params"] if weight.grad is not None]
        gradients = [weight.grad for weight in weights]
        scale = self.radius / (torch.nn.utils.get_total_norm(gradients) + 1e-12)
        ascent = [gradient * scale for gradient in gradients]
        torch._foreach_add_(weights, ascent)
        with torch.enable_grad():
            closure()
        torch._foreach_sub_(weights, ascent)
        super().step()
        return loss


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

    def one_cycle(
        self, learning_rate: float, weight_decay: float, *, radius: float = 0.0
    ) -> pl.utilities.types.OptimizerLRScheduler:
        """AdamW under the one-cycle schedule (Smith and Topin 2018) with its peak at ``learning_rate``.

        With a ``radius``, steps follow the gradient at the worst place within it (``SharpnessAware``).
        """
        made = partial(SharpnessAware, radius=radius) if radius else torch.optim.AdamW
        optimizer = made(self.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
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


def divide(layer: nn.Linear, divisor: float) -> None:
    """Divide what a layer answers, in place."""
    with torch.no_grad():
        layer.weight.div_(divisor)
        layer.bias.div_(divisor)


class OneLogit(nn.Module):
    """Any network from uint8 grey crops (N, side, side) to logits of "open" (N,).

    Attributes:
        decide: the last layer.
    """

    decide: nn.Linear


class LogitLearner(Learner):
    """A ``Learner`` of a ``OneLogit`` network; validation batches are crops, and P(open) of each."""

    network: OneLogit

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(crops)
        return logits

    def p_open(self, crops: torch.Tensor) -> torch.Tensor:
        p: torch.Tensor = self(crops).sigmoid()
        return p

    def apply_temperature(self, temperature: float) -> None:
        divide(self.network.decide, temperature)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:  # noqa: ARG002
        self.cross_entropy(batch, "val")

    def cross_entropy(self, batch: tuple[torch.Tensor, torch.Tensor], part: Literal["train", "val"]) -> torch.Tensor:
        """The loss of a batch of crops and their P(open), logged with their scores."""
        crops, targets = batch
        logits = self(crops).float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, targets.float())
        self.judge(part, loss, logits.sigmoid(), targets)
        return loss


class ViewLearner(Learner):
    """A ``Learner`` that is trained on random views of crops, drawn anew for each batch on the device it trains on.

    Attributes:
        augmentation: strength of the views, as of ``training.data.augment.views``.
    """

    augmentation = 1.0

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Turn a batch of crops (``TrainingCrops``) into views, uint8 (N, side, side); evaluation crops stay."""
        if not self.trainer.training:
            return batch
        crops, targets = batch
        return augment(crops, self.side, self.augmentation), targets


class TrainingCrops(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Decoded crops with the P(open) to learn, drawn by whole batches.

    Attributes:
        pixels: uint8 (N, 3, ``STORED``, ``STORED``), RGB.
        targets: float32 (N,), NaN where unknown.
    """

    def __init__(self, crops: Sequence[Crop]) -> None:
        self.pixels = torch.empty((len(crops), 3, STORED, STORED), dtype=torch.uint8)
        for place, crop in enumerate(tqdm(crops, desc="decoding", unit="crop")):
            planes = decode_rgb(crop.data).transpose(2, 0, 1)
            self.pixels[place] = torch.from_numpy(np.stack([to_input(plane, STORED) for plane in planes]))
        self.targets = torch.tensor([_target(crop) for crop in crops], dtype=torch.float32)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, places: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pixels[places], self.targets[places]

    def towards(self, crops: Sequence[Crop]) -> TrainingCrops:
        """The same pixels with the targets of ``crops``, in the same order."""
        other = copy(self)
        other.targets = torch.tensor([_target(crop) for crop in crops], dtype=torch.float32)
        return other


class _AsTheyAre(Dataset[tuple[torch.Tensor, float]]):
    """Crops as the service gives them to the network, uint8 (side, side), and their targets."""

    def __init__(self, crops: Sequence[Crop], side: int) -> None:
        self.crops = crops
        self.side = side

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, float]:
        crop = self.crops[index]
        return torch.from_numpy(to_input(decode(crop.data), self.side).copy()), _target(crop)


def _target(crop: Crop) -> float:
    known = crop.label if crop.target is None else crop.target
    return math.nan if known is None else float(known)


def balanced_weights(crops: Sequence[Crop], shares: Mapping[str, float] | None = None) -> torch.Tensor:
    """Sampling weights (N,), float64, that add up to 1: collections by their shares, both labels equally often.

    Within a label, a subject's share grows with the square root of its crops: the few people with thousands of video
    frames must not drown the others, and ten frames must not be repeated hundreds of times. Crops without a subject
    count as one person's each.

    Args:
        crops: N of them.
        shares: of the draws by collection, relative to one another; equal where None.

    Raises:
        DataError: there is no share for a collection.
    """
    groups = [(crop.collection, crop.label, crop.subject) for crop in crops]
    members = Counter(groups)
    labels = {collection: {label for name, label, _ in members if name == collection} for collection, _, _ in members}
    if missing := sorted(labels.keys() - (labels if shares is None else shares).keys()):
        raise DataError(f"no share of the draws is given for {missing[0]}")
    relative = dict.fromkeys(labels, 1.0) if shares is None else {name: shares[name] for name in labels}
    mass: Counter[tuple[str, int | None]] = Counter()
    for (collection, label, _), n in members.items():
        mass[collection, label] += n**0.5
    share = {name: relative[name] / sum(relative.values()) / len(states) for name, states in labels.items()}
    return torch.tensor([share[g[0]] * members[g] ** -0.5 / mass[g[:2]] for g in groups], dtype=torch.float64)


def train_loader(
    crops: TrainingCrops, weights: torch.Tensor, *, batch_size: int, draws: int
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """So many draws of crops by their weights (N,), in whole batches."""
    draw = WeightedRandomSampler(weights.tolist(), draws)
    return DataLoader(crops, sampler=BatchSampler(draw, batch_size, drop_last=True), batch_size=None)


def evaluation_loader(crops: Sequence[Crop], side: int) -> DataLoader[tuple[torch.Tensor, float]]:
    """The crops in order, as they are, in batches."""
    return DataLoader(_AsTheyAre(crops, side), batch_size=128)


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
    device: Device,
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
        device: to train on.

    Returns:
        The checkpoint that the run ends with.

    Raises:
        SystemExit: SIGTERM came; the status is 143.
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
        accelerator="gpu" if torch_device(device).type == "cuda" else "cpu",
        devices=1,
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
        try:
            trainer.fit(
                model, train_batches, validation_batches, ckpt_path=last if last.exists() else None, weights_only=True
            )
        except SIGTERMException:  # Lightning's exit status is 0, which whoever waits takes for a finished training
            raise SystemExit(128 + signal.SIGTERM) from None
    return outcome(output)


@torch.inference_mode()
def predict(model: Learner, crops: Sequence[Crop]) -> Scores:
    """P(open) of each crop (N,), float64 in [0, 1], computed in float32."""
    batches = evaluation_loader(crops, model.side)
    return np.concatenate(
        [np.empty(0), *(model.p_open(batch.to(model.device)).double().cpu().numpy() for batch, _ in batches)]
    )


@torch.inference_mode()
def predict_views(model: Learner, crops: Sequence[Crop]) -> Scores:
    """P(open) of each crop (N,), the mean over four views of it: as it is, enlarged by a tenth, and both mirrored."""
    margin = round(model.side * 0.05)
    scores = [np.empty(0)]
    for batch, _ in evaluation_loader(crops, model.side):
        crop = batch.to(model.device)
        inner = crop[:, margin:-margin, margin:-margin]
        enlarged = v2.functional.resize(inner, [model.side, model.side], antialias=True)
        views = (crop, crop.flip(-1), enlarged, enlarged.flip(-1))
        scores.append(torch.stack([model.p_open(view) for view in views]).mean(dim=0).double().cpu().numpy())
    return np.concatenate(scores)
