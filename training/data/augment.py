"""Random changes to an eye crop that leave open or closed as it was."""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2

from eyestate.images import decode


class RandomDownscale(v2.Transform):
    """Shrink the crop to a random side, so that eyes filmed from afar (24-px crops) are part of training."""

    def __init__(self, smallest: int, largest: int) -> None:
        super().__init__()
        self.smallest = smallest
        self.largest = largest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"side": int(torch.randint(self.smallest, self.largest + 1, ()))}

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        side = params["side"]
        return v2.functional.resize(inpt, [side, side], antialias=True)


class RandomGamma(v2.Transform):
    """Bend the tone curve: infrared and visible light, screens and cameras differ in more than contrast."""

    def __init__(self, strongest: float) -> None:
        super().__init__()
        self.strongest = strongest

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"gamma": float(self.strongest ** (2 * torch.rand(()) - 1))}

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        return v2.functional.adjust_gamma(inpt, params["gamma"])


class RandomJpeg(v2.Transform):
    """Compress and decode again, as v2.JPEG, which goes away with torchvision's codecs (deprecated since 0.29)."""

    def __init__(self, worst: int, best: int) -> None:
        super().__init__()
        self.worst = worst
        self.best = best

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"quality": int(torch.randint(self.worst, self.best + 1, ()))}

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        file = io.BytesIO()
        Image.fromarray(inpt[0].numpy()).save(file, "JPEG", quality=params["quality"])
        return torch.from_numpy(decode(file.getvalue()).copy())[None]


def augmentation() -> v2.Transform:
    """The training augmentation: uint8 (1, H, W) in, uint8 (1, H', W') out, sides from 16 to 64 px.

    Geometry first, at the crop's own resolution; then the camera: distance, light, lens, sensor noise, compression.
    """
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.Resize([64, 64], antialias=True),
            v2.Pad(16, padding_mode="reflect"),
            v2.RandomAffine(
                degrees=12,
                translate=(0.07, 0.07),
                scale=(0.85, 1.25),
                shear=5,
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.CenterCrop(64),
            v2.RandomApply([RandomDownscale(16, 48)], p=0.7),
            v2.RandomApply([RandomGamma(2.0)], p=0.5),
            v2.ColorJitter(brightness=(0.6, 1.6), contrast=(0.6, 1.8)),
            v2.RandomAutocontrast(p=0.4),
            v2.RandomEqualize(p=0.1),
            v2.RandomApply([v2.GaussianBlur(3, sigma=(0.3, 1.5))], p=0.25),
            v2.RandomApply([v2.GaussianNoise(sigma=0.03)], p=0.3),
            v2.RandomApply([RandomJpeg(30, 95)], p=0.4),
        ]
    )
