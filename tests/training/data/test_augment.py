"""Augmentation: seeded, of the documented form, and it leaves open open and closed closed."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.images import to_input
from training.data import augment as module
from training.data.augment import PARTS, SIZES, STORED, augment, resize_views, views
from training.data.synthetic import labelled


def drawn(n: int) -> torch.Tensor:
    """Drawn eyes, uint8 (n, 3, ``STORED``, ``STORED``), in turn closed and open."""
    eyes = torch.stack([torch.from_numpy(pixels) for pixels, _ in labelled(n, seed=0)])
    return eyes.unsqueeze(1).repeat(1, 3, 1, 1)


def eye(*, opened: bool) -> Pixels:
    """A dark iris in a bright eye, or the dark line of a shut one, mirror-symmetric."""
    y, x = np.mgrid[-1 : 1 : STORED * 1j, -1 : 1 : STORED * 1j]
    white = (x / 0.75) ** 2 + (y / 0.5) ** 2 < 1
    iris = x**2 + y**2 < 0.35**2
    line = (abs(x) < 0.75) & (abs(y - 0.3 * (1 - x**2)) < 0.1)
    pixels = np.select([white & iris, white], [40, 210], 150) if opened else np.where(line, 60, 150)
    return pixels.astype(np.uint8)


def likeness(first: Pixels, second: Pixels) -> float:
    """Correlation of two pictures brought to one size and shifted to where they fit best."""
    a, b = (np.fft.rfft2(tones - tones.mean()) for tones in (to_input(first, 32), to_input(second, 32)))
    powers = (np.fft.irfft2(spectrum * spectrum.conj())[0, 0] for spectrum in (a, b))
    return float(np.fft.irfft2(a * b.conj()).max() / np.sqrt(np.prod([*powers])))


@pytest.mark.parametrize(("n", "side"), [(1, 24), (2, 96), (7, 48), (33, 48)])
def test_form(n: int, side: int) -> None:
    seen = augment(drawn(n), side)
    assert seen.dtype == torch.uint8
    assert seen.shape == (n, side, side)


def test_parts_hold_every_crop_once_each_at_the_resolution_of_a_camera() -> None:
    crops, sides = drawn(9), set()
    for seed in range(40):
        torch.manual_seed(seed)
        parts = views(crops)
        assert len(parts) <= PARTS
        assert sorted(torch.cat([places for places, _ in parts]).tolist()) == list(range(9))
        for places, view in parts:
            assert view.shape == (len(places), 1, view.shape[2], view.shape[2])
            assert view.dtype == torch.float32
            assert 0 <= float(view.min()) <= float(view.max()) <= 1
            sides.add(view.shape[2])
    assert sides == {*SIZES, STORED}


def test_the_crops_themselves_are_left_as_they_are() -> None:
    crops = drawn(8)
    for _ in range(10):
        augment(crops, 24)
    assert torch.equal(crops, drawn(8))


def test_strength() -> None:
    """At 0 a view is the luma of the crop; the stronger, the less the views are like it."""
    crops = drawn(64)
    assert torch.equal(augment(crops, STORED, strength=0), crops[:, 0])
    torch.manual_seed(0)
    weak, usual, strong = (
        float((augment(crops, STORED, strength).float() - crops[:, 0].float()).abs().mean())
        for strength in (0.5, 1, 1.5)
    )
    assert weak < usual < strong


def test_torchs_seed_decides() -> None:
    crops = drawn(16)

    def seeded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return augment(crops, 32)

    assert torch.equal(seeded(1), seeded(1))
    assert len({seeded(seed)[place].numpy().tobytes() for seed in range(3) for place in range(16)}) == 3 * 16


def test_resized_views_are_in_the_order_of_the_crops() -> None:
    order = torch.tensor([4, 0, 6, 2, 1, 5, 3])
    parts = [
        (places, (places / 255).view(-1, 1, 1, 1).expand(-1, 1, side, side))
        for places, side in ((order[:2], 14), (order[2:3], 64), (order[3:], 24))
    ]
    resized = resize_views(parts, 24)
    assert resized.shape == (7, 24, 24)
    assert torch.equal(resized, torch.arange(7, dtype=torch.uint8).view(-1, 1, 1).expand(-1, 24, 24))


def test_one_view_is_seen_at_several_sizes() -> None:
    """The student and its teacher are given the same view, each at its own size."""
    torch.manual_seed(0)
    seen = views(drawn(12))
    large, small = resize_views(seen, 48), resize_views(seen, 24)
    halves = np.stack([to_input(view, 24) for view in large.numpy()]).astype(int)
    assert np.abs(halves - small.numpy()).mean() < 4


@pytest.mark.parametrize("opened", [True, False])
def test_open_and_closed_stay_apart(opened: bool) -> None:
    same, other = eye(opened=opened), eye(opened=not opened)
    torch.manual_seed(0)
    changed = augment(torch.from_numpy(same).expand(400, 3, -1, -1), 32).numpy()
    likenesses = np.array([(likeness(view, same), likeness(view, other)) for view in changed])
    assert (likenesses[:, 0] > likenesses[:, 1]).mean() > 0.96
    assert np.median(likenesses[:, 0]) > 0.7


@pytest.mark.parametrize("side", [64, 24, 20, 14])
@pytest.mark.parametrize("quality", [30, 50, 95])
def test_compression_is_that_of_jpeg(side: int, quality: int) -> None:
    crops = [to_input(pixels, side) for pixels, _ in labelled(6, seed=3)]
    x = torch.from_numpy(np.stack(crops)).unsqueeze(1).float() / 255
    found = module._compress(x, torch.full((6, 1, 1, 1), float(quality))).squeeze(1) * 255
    errors = []
    for crop, compressed in zip(crops, found.numpy(), strict=True):
        file = io.BytesIO()
        Image.fromarray(crop).save(file, "JPEG", quality=quality)
        errors.append(np.abs(compressed - np.asarray(Image.open(file)).astype(float)).mean())
        change = np.abs(compressed - crop).mean()
        assert 0 < change < (2 if quality == 95 else 12)
    assert max(errors) < 1
