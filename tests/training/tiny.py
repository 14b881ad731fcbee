"""A network that trains in a second, in place of the one that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import nn

from training.models.member import STEM

SIDE: Final = 96  # of the input; a multiple of 24, for TinyNetwork's pooling
MEMBER_SIDE: Final = 48  # the same of a member of a committee


class TinyNetwork(nn.Module):
    """Stands in for facenet-pytorch's InceptionResnetV1: interface and names are the same, the work is a thousandth."""

    def __init__(self, classify: bool = True, num_classes: int = 2, dropout_prob: float = 0.0) -> None:
        super().__init__()
        self.classify = classify
        for name in STEM:
            self.add_module(name, nn.Identity())
        self.conv2d_1a = nn.Sequential(nn.AdaptiveAvgPool2d(24), _convolution(3, 16, 1))
        self.conv2d_2a = _convolution(16, 32, 2)
        self.conv2d_2b = _convolution(32, 64, 2)
        self.embed = nn.Sequential(nn.Flatten(), nn.Linear(64 * 6 * 6, 512), nn.BatchNorm1d(512))
        self.dropout = nn.Dropout(dropout_prob)
        self.logits = nn.Linear(512, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for name in STEM:
            images = self.get_submodule(name)(images)
        embedded: torch.Tensor = self.embed(images)
        logits: torch.Tensor = self.logits(self.dropout(embedded))
        return logits if self.classify else nn.functional.normalize(embedded)


def _convolution(channels: int, filters: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters), nn.ReLU())


def write_backbone(path: Path) -> None:
    """Write random weights in the form of a pretrained backbone: a state_dict without logits."""
    torch.manual_seed(0)
    weights = TinyNetwork().state_dict()
    torch.save({name: value for name, value in weights.items() if "logits" not in name}, path)
