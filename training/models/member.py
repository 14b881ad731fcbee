"""A member of the committee: the first layers of FaceNet on an eye crop of the size at which they saw eyes in faces.

FaceNet was trained on faces of 160 px, in which a crop of one eye is about 45 px wide. At 48 px its layers up to the
first five residual blocks therefore start from what they know of eyes, at a thirteenth of the cost of the whole network
at 96 px.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytorch_lightning as pl
import torch
from facenet_pytorch import InceptionResnetV1
from torch import nn

from training.data.datasets import LabelledCrop
from training.models.classifier import load_backbone
from training.models.learner import (
    Device,
    LogitLearner,
    OneLogit,
    TrainingCrops,
    ViewLearner,
    evaluation_loader,
    fastest_precision,
    fit,
    train_loader,
)
from training.runs import outcome

STEM: Final = (
    "conv2d_1a",
    "conv2d_2a",
    "conv2d_2b",
    "maxpool_3a",
    "conv2d_3b",
    "conv2d_4a",
    "conv2d_4b",
    "repeat_1",
)
FLAT: Final = 10.0  # variance of the grey values, added before a crop is standardised, so that noise is not blown up
CONTRAST: Final = 0.5  # standard deviation of the input, about that of a face scaled as FaceNet's input


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """Everything that decides what the training of a member computes; a run resumes only under equal settings."""

    backbone: str = "casia-webface"  # as in ``training.models.classifier.Settings``; random weights where it is empty
    input_side: int = 48  # pixels; the crops are resized to this square
    epochs: int = 6
    crops_per_epoch: int = 16_384
    batch_size: int = 128
    learning_rate: float = 1e-3  # peak of the one-cycle schedule
    weight_decay: float = 0.02
    dropout: float = 0.3
    average_decay: float = 0.99  # of the moving average of the weights, per step; the average is evaluated and kept
    radius: float = 0.0  # of sharpness-aware minimization; none where it is 0
    augmentation: float = 1.0  # strength of the views, as of ``training.data.augment.views``
    seed: int = 0


class Network(OneLogit):
    """uint8 grey crops (N, side, side) to logits of "open" (N,); each crop is standardised first.

    The batch norms stay in evaluation mode while it is trained: FaceNet's statistics are folded into its weights, and a
    crop's score must not depend on the other crops of a batch, many of which are unlike any that will be scored.
    """

    def __init__(self, side: int, dropout: float, backbone: str | None) -> None:
        super().__init__()
        faces = InceptionResnetV1(classify=True, num_classes=2)
        if backbone is not None:
            load_backbone(faces, backbone)
        self.stem = nn.Sequential(*(getattr(faces, name) for name in STEM))
        self.stem.eval()
        self.dropout = nn.Dropout(dropout)
        with torch.no_grad():
            channels = self.stem(torch.zeros((1, 3, side, side))).shape[1]
        self.decide = nn.Linear(channels, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        x = nn.functional.layer_norm(crops.float(), crops.shape[1:], eps=FLAT).unsqueeze(1) * CONTRAST
        features = self.stem(x.expand(-1, 3, -1, -1)).mean(dim=(2, 3))
        logits: torch.Tensor = self.decide(self.dropout(features))
        return logits.squeeze(1)


class Member(LogitLearner, ViewLearner):
    """Learns from views of crops, and P(open) of each."""

    def __init__(self, settings: Mapping[str, str | int | float], *, pretrained: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="pretrained")
        self.settings = MemberSettings(**settings)  # type: ignore[arg-type]  # the checkpoint stores plain values
        self.side = self.settings.input_side
        self.augmentation = self.settings.augmentation
        self.network = Network(
            self.side, self.settings.dropout, (self.settings.backbone or None) if pretrained else None
        )

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:  # noqa: ARG002
        return self.cross_entropy(batch, "train")

    def configure_optimizers(self) -> pl.utilities.types.OptimizerLRScheduler:
        return self.one_cycle(self.settings.learning_rate, self.settings.weight_decay, radius=self.settings.radius)


def train_member(
    crops: TrainingCrops,
    weights: torch.Tensor,
    monitored: Sequence[LabelledCrop],
    settings: MemberSettings,
    output: Path,
    *,
    start: Path | None,
    device: Device,
) -> Path:
    """Train a member to the end of its schedule; a killed run continues after its last whole epoch.

    Args:
        crops: to draw views of.
        weights: of the crops (N,) among the draws; 0 where the member must not see one.
        monitored: labelled crops to follow the training by; nothing is chosen by them.
        settings: of the member.
        output: the run's folder.
        start: the run whose weights to start from instead of the backbone's.
        device: to train on.

    Returns:
        The checkpoint.
    """
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    member = Member(dataclasses.asdict(settings), pretrained=start is None)
    if start is not None:
        member.load_state_dict(torch.load(outcome(start), map_location="cpu", weights_only=True)["state_dict"])
    return fit(
        member,
        train_loader(crops, weights, batch_size=settings.batch_size, draws=settings.crops_per_epoch),
        evaluation_loader(monitored, settings.input_side),
        output,
        epochs=settings.epochs,
        patience=0,
        average_decay=settings.average_decay,
        precision=fastest_precision(device),
        device=device,
    )


def load_member(checkpoint: Path) -> Member:
    """A trained member in evaluation mode, loaded without pickle execution."""
    return Member.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True).eval()
