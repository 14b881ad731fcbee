"""How crops are drawn and turned into batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.conftest import COLLECTION
from training.data.augment import STORED
from training.data.datasets import Crop, DataError, LabelledCrop
from training.data.split import Split
from training.models.learner import (
    SharpnessAware,
    TrainingCrops,
    balanced_weights,
    evaluation_loader,
    fastest_precision,
    torch_device,
    train_loader,
)


class TestBalancedWeights:
    def test_by_label_and_subject(self) -> None:
        counts = {("a", 0): 100, ("a", 1): 4, ("b", 0): 25, ("c", 1): 16}
        crops = [Crop("", b"", label, subject) for (subject, label), n in counts.items() for _ in range(n)]
        weights = balanced_weights(crops).numpy()
        mass = {group: weights[[(c.subject, c.label) == group for c in crops]].sum() for group in counts}
        assert weights.sum() == pytest.approx(1)
        assert mass["a", 0] + mass["b", 0] == pytest.approx(mass["a", 1] + mass["c", 1])
        assert mass["a", 0] / mass["b", 0] == pytest.approx(2)  # the square root of 100 / 25
        assert mass["c", 1] / mass["a", 1] == pytest.approx(2)

    def test_collections_by_their_shares(self) -> None:
        counts = {("near", 0): 90, ("near", 1): 10, ("far", None): 7}
        crops = [
            Crop("", b"", label, collection=collection) for (collection, label), n in counts.items() for _ in range(n)
        ]
        groups = [(crop.collection, crop.label) for crop in crops]

        def mass(shares: dict[str, float] | None) -> dict[tuple[str, int | None], float]:
            weights = balanced_weights(crops, shares).numpy()
            return {key: float(weights[[group == key for group in groups]].sum()) for key in counts}

        equal = {("near", 0): 0.25, ("near", 1): 0.25, ("far", None): 0.5}
        assert mass(None) == pytest.approx(equal)
        assert mass({"near": 3, "far": 3, "nowhere": 5}) == pytest.approx(equal)
        most_near = {("near", 0): 0.375, ("near", 1): 0.375, ("far", None): 0.25}
        assert mass({"near": 3, "far": 1}) == pytest.approx(most_near)
        assert mass({"near": 0, "far": 1})["near", 0] == 0

    def test_every_collection_needs_a_share(self) -> None:
        with pytest.raises(DataError, match="no share of the draws is given for far"):
            balanced_weights([Crop("", b"", collection="far")], {"near": 1})


class TestTrainingCrops:
    def test_are_kept_in_colour(self, everybody: list[LabelledCrop]) -> None:
        crops = TrainingCrops(everybody)
        assert len(crops) == len(everybody)
        assert crops.pixels.shape == (len(everybody), 3, STORED, STORED)
        assert crops.pixels.dtype == torch.uint8
        for pixels, crop in zip(crops.pixels, everybody, strict=True):
            assert bool((pixels[0] == pixels[1]).all()) == (crop.collection != COLLECTION)

    def test_a_target_goes_before_the_label_and_nothing_known_is_nan(self, split: Split) -> None:
        crop = split.val[0]
        crops = TrainingCrops([crop, dataclasses.replace(crop, target=0.25), crop.unlabelled()])
        np.testing.assert_array_equal(crops.targets, np.array([crop.label, 0.25, np.nan], np.float32))

    def test_a_batch_has_the_crops_that_were_asked_for(self, split: Split) -> None:
        crops = TrainingCrops(split.val)
        pixels, targets = crops[[2, 0, 2]]
        assert torch.equal(pixels, torch.stack([crops.pixels[2], crops.pixels[0], crops.pixels[2]]))
        assert targets.tolist() == [split.val[place].label for place in (2, 0, 2)]


def test_evaluation_crops_stay_as_they_are_and_in_order(split: Split) -> None:
    first, again = (list(evaluation_loader(split.val, 80)) for _ in range(2))
    pixels, targets = first[0]
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (len(split.val), 80, 80)
    assert targets.tolist() == [crop.label for crop in split.val]
    assert torch.equal(pixels, again[0][0])


def test_training_takes_whole_batches_of_what_has_a_weight(split: Split) -> None:
    weights = torch.zeros(len(split.train), dtype=torch.float64)
    weights[3] = 0.5
    crops = TrainingCrops(split.train)
    batches = list(train_loader(crops, weights, batch_size=8, draws=20))
    assert [len(targets) for _, targets in batches] == [8, 8]
    assert all(torch.equal(drawn, crops.pixels[3]) for pixels, _ in batches for drawn in pixels)


def test_sharpness_aware_steps_follow_the_gradient_of_a_worse_place() -> None:
    """Of half the squared length, whose gradient is the place itself."""
    weight, other = (nn.Parameter(torch.tensor([3.0, 4.0])) for _ in range(2))
    optimizer, plain = SharpnessAware([weight], radius=0.5, lr=0.1), torch.optim.AdamW([other], lr=0.1)
    seen = []

    def closure() -> torch.Tensor:
        loss = weight.square().sum() / 2
        (weight.grad,) = torch.autograd.grad(loss, weight)
        seen.append(weight.tolist())
        return loss

    assert optimizer.step(closure).item() == pytest.approx(12.5)
    assert seen == [[3, 4], pytest.approx([3.3, 4.4])]
    other.grad = torch.tensor([3.3, 4.4])
    plain.step()
    assert torch.allclose(weight, other)


class TestDevice:
    """There is no GPU in these tests (``same_on_every_machine``)."""

    def test_a_gpu_that_is_not_there(self) -> None:
        with pytest.raises(DataError, match="--device cpu or auto"):
            torch_device("cuda")
        assert torch_device("auto") == torch_device("cpu") == torch.device("cpu")

    @pytest.mark.parametrize(("has_it", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
    def test_bfloat16_where_the_processor_has_it(
        self, monkeypatch: pytest.MonkeyPatch, has_it: bool, precision: str
    ) -> None:
        monkeypatch.setattr("training.models.learner.has_bfloat16", lambda: has_it)
        assert fastest_precision("auto") == precision
