"""How crops are drawn and turned into batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from training.data.datasets import Crop
from training.data.split import Split
from training.models.learner import CropDataset, balanced_weights, train_loader


def test_balanced_weights() -> None:
    counts = {("a", 0): 100, ("a", 1): 4, ("b", 0): 25, ("c", 1): 16}
    crops = [Crop("", b"", label, subject) for (subject, label), n in counts.items() for _ in range(n)]
    weights = balanced_weights(crops).numpy()
    mass = {group: weights[[(c.subject, c.label) == group for c in crops]].sum() for group in counts}
    assert mass["a", 0] + mass["b", 0] == pytest.approx(mass["a", 1] + mass["c", 1])
    assert mass["a", 0] / mass["b", 0] == pytest.approx(2)  # the square root of 100 / 25
    assert mass["c", 1] / mass["a", 1] == pytest.approx(2)


def test_crops_without_a_subject_have_a_share_of_their_own() -> None:
    counts = {("a", 0): 9, ("b", 1): 1, (None, 0): 100, (None, 1): 25}
    crops = [Crop("", b"", label, subject) for (subject, label), n in counts.items() for _ in range(n)]
    weights = balanced_weights(crops, own_share=0.8).numpy()
    mass = {group: weights[[(c.subject, c.label) == group for c in crops]].sum() for group in counts}
    assert mass[None, 0] == pytest.approx(mass[None, 1])
    assert mass["a", 0] == pytest.approx(mass["b", 1])
    assert mass[None, 0] / mass["a", 0] == pytest.approx(4)


class TestDataset:
    def test_evaluation_crops_stay_as_they_are(self, split: Split) -> None:
        dataset = CropDataset(split.val, 80, augmented=False)
        pixels, label = dataset[0]
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (80, 80)
        assert label == split.val[0].label
        assert torch.equal(pixels, dataset[0][0])

    def test_a_target_goes_before_the_label_and_nothing_known_is_nan(self, split: Split) -> None:
        crop = split.val[0]
        crops = [dataclasses.replace(crop, target=0.25), Crop(crop.name, crop.data)]
        dataset = CropDataset(crops, 80, augmented=False)
        assert dataset[0][1] == 0.25
        assert np.isnan(dataset[1][1])

    def test_training_crops_change(self, split: Split) -> None:
        dataset = CropDataset(split.val, 80, augmented=True)
        first, second = dataset[0][0], dataset[0][0]
        assert first.shape == second.shape == (80, 80)
        assert not torch.equal(first, second)


def test_training_takes_whole_batches(split: Split) -> None:
    loader = train_loader(split.train, 80, batch_size=8, draws=20, own_share=0.5)
    batches = list(loader)
    assert [len(targets) for _, targets in batches] == [8, 8]
    assert all(crops.shape == (8, 80, 80) for crops, _ in batches)
