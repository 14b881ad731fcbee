"""A network that trains in a second, in place of the one that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import nn

SIDE: Final = 96  # of the input; a multiple of 24, for TinyNetwork's pooling


class TinyNetwork(nn.Module):
    """Stands in for facenet-pytorch's InceptionResnetV1: the same interface, and a thousandth of the work."""

    def __init__(self, classify: bool = True, num_classes: int = 2, dropout_prob: float = 0.0) -> None:
        super().__init__()
        self.classify = classify
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(24)]
        for channels, filters, stride in ((3, 16, 1), (16, 32, 2), (32, 64, 2)):
            layers += [nn.Conv2d(channels, filters, 3, stride, 1), nn.BatchNorm2d(filters), nn.ReLU()]
        self.embed = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 6 * 6, 512), nn.BatchNorm1d(512))
        self.dropout = nn.Dropout(dropout_prob)
        self.logits = nn.Linear(512, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.embed(images)
        logits: torch.Tensor = self.logits(self.dropout(embedded))
        return logits if self.classify else nn.functional.normalize(embedded)


def write_backbone(path: Path) -> None:
    """Write random weights in the form of a pretrained backbone: a state_dict without logits."""
    torch.manual_seed(0)
    weights = TinyNetwork().state_dict()
    torch.save({name: value for name, value in weights.items() if "logits" not in name}, path)
