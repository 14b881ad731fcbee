"""Augmentation: seeded, of the documented form, and it leaves open open and closed closed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from eyestate.arrays import Pixels
from eyestate.images import to_input
from training.data.augment import RandomDownscale, RandomGamma, RandomJpeg, augmentation


def eye(width: int = 24, height: int = 24, *, opened: bool = True) -> torch.Tensor:
    """A dark iris in a bright eye, or the dark line of a shut one: uint8 (1, height, width), mirror-symmetric."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    white = (x / 0.75) ** 2 + (y / 0.5) ** 2 < 1
    iris = x**2 + y**2 < 0.35**2
    line = (abs(x) < 0.75) & (abs(y - 0.3 * (1 - x**2)) < 0.1)
    pixels = np.select([white & iris, white], [40, 210], 150) if opened else np.where(line, 60, 150)
    return torch.from_numpy(pixels.astype(np.uint8))[None]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On crops this small, threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def augmented(crop: torch.Tensor, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    changed: torch.Tensor = augmentation()(crop)
    return changed


def likeness(first: Pixels, second: Pixels) -> float:
    """Correlation of two pictures brought to one size and shifted to where they fit best."""
    a, b = (np.fft.rfft2(tones - tones.mean()) for tones in (to_input(first, 32), to_input(second, 32)))
    powers = (np.fft.irfft2(spectrum * spectrum.conj())[0, 0] for spectrum in (a, b))
    return float(np.fft.irfft2(a * b.conj()).max() / np.sqrt(np.prod([*powers])))


@pytest.mark.parametrize(("width", "height"), [(8, 8), (24, 24), (64, 48), (300, 200)])
def test_form(width: int, height: int) -> None:
    sides = set()
    for seed in range(60):
        changed = augmented(eye(width, height), seed)
        assert changed.dtype == torch.uint8
        assert changed.shape == (1, changed.shape[1], changed.shape[1])
        sides.add(changed.shape[1])
    assert {min(sides), max(sides)} <= {*range(16, 65)}
    assert 64 in sides
    assert len(sides) > 20


def test_the_crop_itself_is_left_as_it_is() -> None:
    crop = eye()
    for seed in range(20):
        augmented(crop, seed)
    assert torch.equal(crop, eye())


def test_torchs_seed_decides() -> None:
    first = [augmented(eye(), seed) for seed in range(40)]
    again = [augmented(eye(), seed) for seed in range(40)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({crop.numpy().tobytes() for crop in first}) == len(first)


@pytest.mark.parametrize("opened", [True, False])
def test_open_and_closed_stay_apart(opened: bool) -> None:
    same, other = eye(opened=opened)[0].numpy(), eye(opened=not opened)[0].numpy()
    changed = [augmented(eye(opened=opened), seed)[0].numpy() for seed in range(200)]
    assert min(crop.std() for crop in changed) > 5
    likenesses = np.array([(likeness(crop, same), likeness(crop, other)) for crop in changed])
    assert likenesses[:, 0].min() > 0.4
    assert (likenesses[:, 0] - likenesses[:, 1]).min() > 0.1


def test_downscale_reaches_every_side_and_no_other() -> None:
    downscale = RandomDownscale(16, 18)
    assert {tuple(downscale(eye(64, 64)).shape) for _ in range(60)} == {(1, 16, 16), (1, 17, 17), (1, 18, 18)}


def test_gamma_bends_both_ways_and_keeps_the_order_of_tones() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    gamma = RandomGamma(2)
    middles = []
    for seed in range(60):
        torch.manual_seed(seed)
        bent = gamma(ramp).flatten().int()
        assert (bent[0], bent[-1]) == (0, 255)
        assert (bent.diff() >= 0).all()
        middles.append(int(bent[128]))
    # 255 · (128/255)^γ for γ from 1/2 to 2
    assert 64 <= min(middles) < 80
    assert 170 < max(middles) <= 181


def test_jpeg_is_near_the_crop_and_nearer_at_higher_quality() -> None:
    crop = eye(48, 48)
    errors = [(RandomJpeg(quality, quality)(crop).int() - crop.int()).abs().float().mean() for quality in (30, 95)]
    assert 0 < errors[1] < errors[0] < 10
