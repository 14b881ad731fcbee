"""Random changes to eye crops that leave open or closed as it was, for whole batches, on whatever device they lie.

First the scene changes (framing, hair, frames of glasses, light from one side, reflections), then the light, the lens,
and last the camera: its distance, its noise and its compression.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from scipy.fft import dct
from torch.nn import functional as F  # noqa: N812  # as everywhere

STORED: Final = 64  # pixels: width and height of the crops that are taken
LUMA: Final = (0.299, 0.587, 0.114)  # ITU-R 601-2
SIZES: Final = (14, 16, 20, 24, 24, 28, 32, 40)  # pixels a side, of crops seen from afar
PARTS: Final = 4  # of a batch, each seen from one distance
AFAR: Final = 0.65  # of the parts
_BLUR: Final = 9  # pixels, width of the kernels
_BLOCK: Final = 8  # pixels, of JPEG
# Quantization of luminance, ITU-T T.81, table K.1
_QUANTIZATION: Final = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)

View = tuple[torch.Tensor, torch.Tensor]


def augment(crops: torch.Tensor, side: int, strength: float = 1.0) -> torch.Tensor:
    """One random view of each crop, as the network is given it.

    Args:
        crops: uint8 (N, 3, ``STORED``, ``STORED``), RGB, on any device.
        side: width and height of the views in pixels.
        strength: as of ``views``.

    Returns:
        Grey views, uint8 (N, side, side), on the same device.
    """
    return resize_views(views(crops, strength), side)


def views(crops: torch.Tensor, strength: float = 1.0) -> list[View]:
    """One random grey view of each crop, at the resolution of the camera that sees it.

    Args:
        crops: uint8 (N, 3, ``STORED``, ``STORED``), RGB.
        strength: what the shares of the crops that a change happens to, and how far framing goes, are multiplied by; at
            0 every view is the crop itself.

    Returns:
        Parts of the batch: the places (M,) of the crops, and their views, float32 (M, 1, s, s) in [0, 1].
    """
    x = _grey(crops, strength)
    x = _reframe(x, strength)
    x = _occlude(x, strength)
    x = _light_from_a_side(x, strength)
    x = _reflect(x, strength)
    x = _expose(x, strength)
    x = _blur(x, strength)
    order = torch.randperm(len(x), device=x.device)
    return [(part, _photograph(x[part], strength)) for part in order.chunk(PARTS)]


def resize_views(parts: Sequence[View], side: int) -> torch.Tensor:
    """The views in the order of the crops, uint8 (N, side, side), resized as the service resizes crops."""
    places = torch.cat([part for part, _ in parts])
    resized = torch.cat([_resize(view, side) for _, view in parts])
    result = torch.empty_like(resized)
    result[places] = resized
    return (result.squeeze(1) * 255).round().to(torch.uint8)


def _resize(x: torch.Tensor, side: int) -> torch.Tensor:
    """Bilinear with antialiasing, as ``eyestate.images.to_input``."""
    if x.shape[-1] == side:
        return x
    return F.interpolate(x, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def _uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """A random number for each crop, (N, 1, 1, 1)."""
    return torch.rand(len(like), 1, 1, 1, device=like.device) * (high - low) + low


def _factor(like: torch.Tensor, largest: float) -> torch.Tensor:
    """A random factor for each crop, (N, 1, 1, 1), from 1 / ``largest`` to ``largest``."""
    factor: torch.Tensor = torch.exp(_uniform(like, -1, 1) * math.log(largest))
    return factor


def _some(x: torch.Tensor, share: float) -> torch.Tensor:
    """The places of a random share of the crops."""
    return torch.nonzero(torch.rand(len(x), device=x.device) < share).squeeze(1)


def _grey(crops: torch.Tensor, strength: float) -> torch.Tensor:
    """Luma, or for two in five a random mix of the channels: infrared cameras see other colours."""
    weights = torch.tensor(LUMA, device=crops.device).repeat(len(crops), 1)
    mixed = _some(weights, 0.4 * strength)
    drawn = torch.rand(len(mixed), 3, device=crops.device).clamp(min=1e-6).log().neg() ** 1.4
    weights[mixed] = drawn / drawn.sum(dim=1, keepdim=True)
    return (crops.float() / 255 * weights[:, :, None, None]).sum(dim=1, keepdim=True)


def _reframe(x: torch.Tensor, strength: float) -> torch.Tensor:
    """Mirror, turn, scale, stretch, shear and move."""
    angle, zoom = _uniform(x, -15, 15) * strength * math.pi / 180, (_factor(x, 1.25) / 1.03) ** strength
    stretch, shear = _factor(x, 1.15) ** strength, _uniform(x, -0.1, 0.1) * strength
    right, down = _uniform(x, -0.14, 0.14) * strength, _uniform(x, -0.14, 0.14) * strength
    mirror = (_uniform(x, 0, 1) < 1 - 0.5 * strength).float() * 2 - 1
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = (
        torch.cat([cos / zoom * mirror, (shear - sin) / zoom * stretch, right], dim=3),
        torch.cat([sin / zoom * mirror, cos / zoom * stretch, down], dim=3),
    )
    grid = F.affine_grid(torch.cat(rows, dim=2).squeeze(1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


def _axes(x: torch.Tensor, reach: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates (N, 1, H, W) along random axes from up to ``reach`` off the middle; a crop is 2 wide."""
    line = (torch.arange(x.shape[-1], device=x.device) + 0.5) / x.shape[-1] * 2 - 1
    across, down = (
        line.view(1, 1, 1, -1) - _uniform(x, -reach, reach),
        line.view(1, 1, -1, 1) - _uniform(x, -reach, reach),
    )
    angle = _uniform(x, -math.pi, math.pi)
    cos, sin = torch.cos(angle), torch.sin(angle)
    return cos * across + sin * down, cos * down - sin * across


def _paint(x: torch.Tensor, mask: torch.Tensor, tone: torch.Tensor) -> torch.Tensor:
    return x + mask * (tone - x)


def _occlude(x: torch.Tensor, strength: float) -> torch.Tensor:
    """Dark bands: strands of hair anywhere, the frame of glasses away from the middle."""
    for share, thinnest, thickest, nearest, bend in (
        (0.06, 0.02, 0.05, -0.9, 0.6),
        (0.06, 0.02, 0.05, -0.9, 0.6),
        (0.07, 0.06, 0.16, 0.35, 0.4),
    ):
        i = _some(x, share * strength)
        part = x[i]
        along, beside = _axes(part, 0)
        middle = _uniform(part, -bend, bend) * along**2 + _uniform(part, nearest, 0.95)
        band = torch.sigmoid((_uniform(part, thinnest, thickest) - (beside - middle).abs()) / 0.03)
        x[i] = _paint(part, band * _uniform(part, 0.5, 1), _uniform(part, 0, 0.25))
    return x


def _light_from_a_side(x: torch.Tensor, strength: float) -> torch.Tensor:
    i = _some(x, 0.25 * strength)
    part = x[i]
    along, _ = _axes(part, 0.6)
    softness = torch.exp(_uniform(part, math.log(0.1), math.log(2)))
    x[i] = part * (1 - _uniform(part, 0.2, 0.85) * torch.sigmoid(along / softness))
    return x


def _reflect(x: torch.Tensor, strength: float) -> torch.Tensor:
    """Glints of lamps, small and strong, and windows in glasses, larger and weaker; round or with corners."""
    for share, smallest, largest, weakest, strongest in ((0.12, 0.04, 0.2, 0.3, 1.0), (0.08, 0.1, 0.45, 0.15, 0.7)):
        i = _some(x, share * strength)
        part = x[i]
        along, beside = _axes(part, 0.8)
        corners = torch.where(_uniform(part, 0, 1) < 0.5, 2.0, 8.0)
        length, width = _uniform(part, smallest, largest), _uniform(part, smallest, largest)
        far = (along.abs() / length) ** corners + (beside.abs() / width) ** corners
        spot = torch.sigmoid((1 - far) / _uniform(part, 0.05, 0.5))
        x[i] = _paint(part, spot * _uniform(part, weakest, strongest), _uniform(part, 0.75, 1.1))
    return x


def _expose(x: torch.Tensor, strength: float) -> torch.Tensor:
    """Another tone curve, contrast and brightness; what is too dark or too bright is clipped, as by a sensor."""
    i = _some(x, 0.6 * strength)
    x[i] = x[i].clamp(1e-4, 1) ** _factor(x[i], 2.2)
    i = _some(x, 0.6 * strength)
    mean = x[i].mean(dim=(2, 3), keepdim=True)
    x[i] = (x[i] - mean) * _factor(x[i], 2.0) + mean * _factor(x[i], 1.5)
    return x.clamp(0, 1)


def _blur(x: torch.Tensor, strength: float) -> torch.Tensor:
    """Out of focus, or moving along a line."""
    i = _some(x, 0.15 * strength)
    if not len(i):
        return x
    part = x[i]
    line = torch.arange(_BLUR, device=x.device) - _BLUR // 2
    across, down = line.view(1, 1, 1, -1), line.view(1, 1, -1, 1)
    angle, length = _uniform(part, 0, math.pi), _uniform(part, 1, 4)
    along, beside = (
        across * torch.cos(angle) + down * torch.sin(angle),
        down * torch.cos(angle) - across * torch.sin(angle),
    )
    moved = torch.sigmoid((length - along.abs()) * 4) * torch.exp(-(beside**2) * 2)
    unfocused = torch.exp(-(across**2 + down**2) / (2 * _uniform(part, 0.5, 2.2) ** 2))
    kernels = torch.where(_uniform(part, 0, 1) < 0.5, moved, unfocused)
    kernels = kernels / kernels.sum(dim=(2, 3), keepdim=True)
    padded = F.pad(part, [_BLUR // 2] * 4, mode="reflect").transpose(0, 1)
    x[i] = F.conv2d(padded, kernels, groups=len(i)).transpose(0, 1)
    return x


def _photograph(x: torch.Tensor, strength: float) -> torch.Tensor:
    """From afar or near, with the noise of a sensor and JPEG's artefacts."""
    if torch.rand(()) < AFAR * strength:
        x = _resize(x, SIZES[int(torch.randint(len(SIZES), ()))])
    i = _some(x, 0.4 * strength)
    part = x[i]
    noise = _uniform(part, 0.02, 0.25) * x.std(dim=(2, 3), keepdim=True, correction=0)[i] + 0.004
    x[i] = (part + torch.randn_like(part) * noise).clamp(0, 1)
    i = _some(x, 0.4 * strength)
    x[i] = _compress(x[i], _uniform(x[i], 25, 95))
    return x


def _compress(x: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """What JPEG makes of grey crops (N, 1, s, s): its transform, quantized for a quality (N, 1, 1, 1) of 1 to 100."""
    n, _, side, _ = x.shape
    blocks = -(-side // _BLOCK)
    margin = blocks * _BLOCK - side
    padded = F.pad(x, (0, margin, 0, margin), mode="replicate") * 255 - 128
    tiles = padded.view(n, blocks, _BLOCK, blocks, _BLOCK).permute(0, 1, 3, 2, 4)
    cosines = torch.tensor(dct(torch.eye(_BLOCK).numpy(), axis=0, norm="ortho"), device=x.device)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).unsqueeze(-1) / 100
    steps = (torch.tensor(_QUANTIZATION, device=x.device) * scale).round().clamp(1, 255)
    tiles = cosines.T @ (((cosines @ tiles @ cosines.T) / steps).round() * steps) @ cosines
    whole = tiles.permute(0, 1, 3, 2, 4).reshape(n, 1, blocks * _BLOCK, blocks * _BLOCK)
    return ((whole[:, :, :side, :side] + 128) / 255).clamp(0, 1)
