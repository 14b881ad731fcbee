"""Train an open/closed classifier: FaceNet's InceptionResnetV1 with two logits, all weights trainable."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from facenet_pytorch import InceptionResnetV1
from pytorch_lightning.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
)
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchvision.transforms import v2

from eyestate.execution import has_bfloat16
from eyestate.images import decode, to_input
from training.data.augment import augmentation
from training.data.datasets import Crop, DataError, Split, fingerprint, sources
from training.evaluation.eer import EqualErrorRate, Scores
from training.runs import CURVES, claim, outcome, sha256

PRETRAINED: Final = ("vggface2", "casia-webface")
MIN_INPUT: Final = 75  # below, InceptionResnetV1's last reduction has nothing left to reduce


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides what a training run computes; a run resumes only under equal settings."""

    backbone: str = "casia-webface"  # one of PRETRAINED, or a path to a state_dict without logits
    input_side: int = 96  # pixels; the crops are resized to this square
    epochs: int = 8
    crops_per_epoch: int = 16_384  # draws per epoch, balanced by subject and label
    own_share: float = 0.5  # of the draws, from crops without a subject, where there are both
    batch_size: int = 64
    learning_rate: float = 3e-4  # peak of the one-cycle schedule
    weight_decay: float = 0.01
    dropout: float = 0.4
    label_smoothing: float = 0.0
    average_decay: float = 0.998  # of the moving average of the weights, per step; it is what is judged and kept
    patience: int = 6  # epochs without a better validation EER before stopping; 0 trains to the end and keeps that
    seed: int = 0


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


class EyeClassifier(Learner):
    """InceptionResnetV1 (Szegedy et al. 2016, FaceNet weights) with two logits: closed, open.

    The forward pass takes uint8 grey crops (N, side, side), values 0 to 255, and returns float logits (N, 2); scaling
    and the repetition to three channels are part of the network, so that no caller can get them wrong.
    """

    def __init__(self, settings: Mapping[str, str | int | float]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.settings = Settings(**settings)  # type: ignore[arg-type]  # the checkpoint stores plain values
        self.network = InceptionResnetV1(classify=True, num_classes=2, dropout_prob=self.settings.dropout)
        self.network.to(memory_format=torch.channels_last)
        self.side = self.settings.input_side
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=self.settings.label_smoothing)

    def p_open(self, crops: torch.Tensor) -> torch.Tensor:
        return p_open(self(crops))

    def apply_temperature(self, temperature: float) -> None:
        divide(self.network.logits, temperature)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        scaled = (crops.unsqueeze(1).float() - 127.5) / 128
        logits: torch.Tensor = self.network(scaled.expand(-1, 3, -1, -1))
        return logits

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        self._step(batch, "val")

    def _step(self, batch: tuple[torch.Tensor, torch.Tensor], part: Literal["train", "val"]) -> torch.Tensor:
        crops, targets = batch
        logits = self(crops).float()
        loss: torch.Tensor = self.loss(logits, torch.stack((1 - targets, targets), dim=1))
        self.judge(part, loss, p_open(logits), targets)
        return loss

    def configure_optimizers(self) -> pl.utilities.types.OptimizerLRScheduler:
        return self.one_cycle(self.settings.learning_rate, self.settings.weight_decay)


def divide(layer: torch.nn.Linear, divisor: float) -> None:
    """Divide what a layer answers, in place."""
    with torch.no_grad():
        layer.weight.div_(divisor)
        layer.bias.div_(divisor)


def p_open(logits: torch.Tensor) -> torch.Tensor:
    """Logits (N, 2) to P(open) (N,), in [0, 1]."""
    return logits.softmax(dim=1)[:, 1]


def load_backbone(network: InceptionResnetV1, backbone: str) -> None:
    """Fill all weights but the logits' from facenet-pytorch's published weights or from a file, in place.

    Args:
        network: built with ``classify=True``.
        backbone: ``vggface2`` or ``casia-webface`` (facenet-pytorch downloads them into torch's hub folder,
            ``TORCH_HOME``), or the path of a state_dict of InceptionResnetV1, floats of any width. The file is read
            without pickle execution.

    Raises:
        DataError: the file is missing or no such state_dict, or the download failed.
    """
    if backbone in PRETRAINED:
        try:
            weights = InceptionResnetV1(pretrained=backbone).state_dict()
        except OSError as error:
            raise DataError(
                f"could not download facenet-pytorch's {backbone} weights ({error}); "
                "fetch them elsewhere and pass their path as --backbone"
            ) from None
    else:
        try:
            weights = torch.load(backbone, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise DataError(f"no backbone at {backbone}; it is one of {', '.join(PRETRAINED)} or a file") from None
        except Exception as error:  # unpickling a file of another kind fails in many ways
            raise DataError(f"{backbone} is no readable state_dict: {error}") from None
    weights = {name: value.float() for name, value in weights.items() if not name.startswith("logits.")}
    result = network.load_state_dict(weights, strict=False)
    if set(result.missing_keys) != {"logits.weight", "logits.bias"} or result.unexpected_keys:
        raise DataError(f"{backbone} holds no InceptionResnetV1 weights")


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


def train(split: Split, settings: Settings, output: Path, *, start: Path | None = None) -> Path:
    """Train until ``settings.epochs`` or until the validation EER stops falling; resume where a killed run stopped.

    A run with other settings or data in ``output`` is moved aside to ``<output>.previous``.

    Args:
        split: labelled crops; train and val are used, test is never looked at.
        settings: hyperparameters; stored in ``output/run.json``.
        output: the run's folder: ``checkpoints/`` (``last.ckpt``, ``best.ckpt``), ``csv/`` and ``tensorboard/`` logs.
        start: the run to fine-tune from instead of the backbone.

    Returns:
        The checkpoint with the lowest validation EER, or the last one where ``settings.patience`` is 0.

    Raises:
        DataError: ``start`` holds no run.
    """
    claim(
        output,
        {
            "settings": dataclasses.asdict(settings),
            "start": None if start is None else sha256(outcome(start)),
            "data": {part: fingerprint(crops) for part, crops in split.parts().items()},
            "sources": [dataclasses.asdict(source) for source in sources(split.train)],
        },
    )
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    model = EyeClassifier(dataclasses.asdict(settings))
    if start is None:
        load_backbone(model.network, settings.backbone)
    else:
        model.load_state_dict(torch.load(outcome(start), map_location="cpu", weights_only=True)["state_dict"])

    return fit(
        model,
        _train_loader(split.train, settings),
        evaluation_loader(split.val, settings.input_side),
        output,
        epochs=settings.epochs,
        patience=settings.patience,
        average_decay=settings.average_decay,
        # Where the processor has no instructions for it, bfloat16 is several times slower than float32.
        precision="bf16-mixed" if has_bfloat16() or torch.cuda.is_available() else "32-true",
    )


def fit(
    model: Learner,
    train_batches: DataLoader[Any],
    validation_batches: DataLoader[Any],
    output: Path,
    *,
    epochs: int,
    patience: int,
    average_decay: float,
    precision: Literal["bf16-mixed", "32-true"],
) -> Path:
    """Train a network; a run found in ``output`` continues after its last whole epoch.

    Args:
        model: what to train.
        train_batches, validation_batches: to train on, and to evaluate after each epoch.
        output: the run's folder.
        epochs: to train for.
        patience: epochs without a better validation EER before stopping; 0 trains to the end and keeps that.
        average_decay: of the moving average of the weights, per step; it is what is judged and kept.
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


def load_classifier(checkpoint: Path) -> EyeClassifier:
    """A trained classifier in evaluation mode, loaded without pickle execution."""
    model = EyeClassifier.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    return model.eval()


@torch.inference_mode()
def predict(model: Learner, crops: Sequence[Crop]) -> Scores:
    """P(open) of each crop (N,), float64 in [0, 1], computed in float32."""
    batches = evaluation_loader(crops, model.side)
    return np.concatenate([model.p_open(batch).double().numpy() for batch, _ in batches])


@torch.inference_mode()
def predict_views(model: EyeClassifier, crops: Sequence[Crop]) -> Scores:
    """P(open) of each crop (N,), the mean over four views of it: as it is, enlarged by a tenth, and both mirrored."""
    side = model.settings.input_side
    margin = round(side * 0.05)
    scores = []
    for batch, _ in evaluation_loader(crops, side):
        inner = batch[:, margin:-margin, margin:-margin]
        enlarged = v2.functional.resize(inner, [side, side], antialias=True)
        views = (batch, batch.flip(-1), enlarged, enlarged.flip(-1))
        scores.append(torch.stack([p_open(model(view)) for view in views]).mean(dim=0).double().numpy())
    return np.concatenate(scores)


def _train_loader(crops: Sequence[Crop], settings: Settings) -> DataLoader[tuple[torch.Tensor, float]]:
    return DataLoader(
        CropDataset(crops, settings.input_side, augmented=True),
        batch_size=settings.batch_size,
        sampler=WeightedRandomSampler(balanced_weights(crops, settings.own_share).tolist(), settings.crops_per_epoch),
        num_workers=_workers(),
        persistent_workers=True,
        drop_last=True,
    )


def evaluation_loader(crops: Sequence[Crop], side: int) -> DataLoader[tuple[torch.Tensor, float]]:
    """The crops in order, as they are, in batches."""
    return DataLoader(CropDataset(crops, side, augmented=False), batch_size=128)


def _workers() -> int:
    return max(1, min(8, (os.cpu_count() or 1) - 1))
