"""Train an open/closed classifier: FaceNet's InceptionResnetV1 with two logits, all weights trainable."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import pytorch_lightning as pl
import torch
from facenet_pytorch import InceptionResnetV1

from training.data.datasets import DataError, fingerprint, sources
from training.data.split import Split
from training.models.learner import (
    Device,
    TrainingCrops,
    ViewLearner,
    balanced_weights,
    divide,
    evaluation_loader,
    fastest_precision,
    fit,
    train_loader,
)
from training.runs import claim, outcome, sha256

PRETRAINED: Final = ("vggface2", "casia-webface")
MIN_INPUT: Final = 75  # below, InceptionResnetV1's last reduction has nothing left to reduce


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides what a training run computes; a run resumes only under equal settings."""

    backbone: str = "casia-webface"  # one of PRETRAINED, or a path to a state_dict without logits
    input_side: int = 96  # pixels; the crops are resized to this square
    epochs: int = 8
    crops_per_epoch: int = 16_384  # draws per epoch, balanced by subject and label
    batch_size: int = 64
    learning_rate: float = 3e-4  # peak of the one-cycle schedule
    weight_decay: float = 0.01
    dropout: float = 0.4
    label_smoothing: float = 0.0
    average_decay: float = 0.998  # of the moving average of the weights, per step; the average is evaluated and kept
    patience: int = 6  # epochs without a better validation EER before stopping; 0 trains to the end and keeps that
    seed: int = 0


class EyeClassifier(ViewLearner):
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


def train(
    split: Split, settings: Settings, output: Path, *, start: Path | None = None, device: Device = "auto"
) -> Path:
    """Train until ``settings.epochs`` or until the validation EER stops falling; resume where a killed run stopped.

    A run with other settings or data in ``output`` is moved aside to ``<output>.previous``.

    Args:
        split: labelled crops; train and val are used, test is never looked at.
        settings: hyperparameters; stored in ``output/run.json``.
        output: the run's folder: ``checkpoints/`` (``last.ckpt``, ``best.ckpt``), ``csv/`` and ``tensorboard/`` logs.
        start: the run to fine-tune from instead of the backbone.
        device: to train on.

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
        train_loader(
            TrainingCrops(split.train),
            balanced_weights(split.train),
            batch_size=settings.batch_size,
            draws=settings.crops_per_epoch,
        ),
        evaluation_loader(split.val, settings.input_side),
        output,
        epochs=settings.epochs,
        patience=settings.patience,
        average_decay=settings.average_decay,
        precision=fastest_precision(device),
        device=device,
    )


def load_classifier(checkpoint: Path) -> EyeClassifier:
    """A trained classifier in evaluation mode, loaded without pickle execution."""
    model = EyeClassifier.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    return model.eval()
