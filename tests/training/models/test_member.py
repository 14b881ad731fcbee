from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import COLLECTION
from tests.training.tiny import MEMBER_SIDE
from training.data.datasets import DataError, LabelledCrop
from training.models.learner import TrainingCrops, predict
from training.models.member import STEM, Member, MemberSettings, Network, load_member, train_member
from training.runs import history, outcome


@pytest.fixture(scope="module")
def network(backbone: Path) -> Network:
    return Network(MEMBER_SIDE, 0, str(backbone)).eval()


class TestNetwork:
    """With FaceNet's own layers."""

    def test_a_logit_for_each_crop(self, network: Network) -> None:
        crops = torch.randint(0, 256, (3, MEMBER_SIDE, MEMBER_SIDE), dtype=torch.uint8)
        with torch.inference_mode():
            logits = network(crops)
            alone = torch.cat([network(crop[None]) for crop in crops])
        assert logits.shape == (3,)
        torch.testing.assert_close(alone, logits, atol=1e-4, rtol=1e-4)

    def test_brightness_and_contrast_do_not_matter(self, network: Network) -> None:
        crops = torch.randint(0, 100, (4, MEMBER_SIDE, MEMBER_SIDE), dtype=torch.uint8)
        with torch.inference_mode():
            torch.testing.assert_close(network(crops), network(2 * crops + 50), atol=1e-2, rtol=1e-2)

    def test_starts_with_the_layers_of_the_backbone(self, network: Network, backbone: Path) -> None:
        stored = torch.load(backbone, weights_only=True)
        for name, layer in zip(STEM, network.stem, strict=True):
            for part, value in layer.state_dict().items():
                torch.testing.assert_close(value, stored[f"{name}.{part}"].to(value.dtype))

    def test_another_backbone(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no backbone at"):
            Network(MEMBER_SIDE, 0, str(tmp_path / "none.pt"))


@pytest.mark.usefixtures("tiny_members")
class TestTraining:
    @pytest.fixture
    def trained(self, everybody: list[LabelledCrop], member_settings: MemberSettings, tmp_path: Path) -> Path:
        """The run of a member that is shown one collection alone."""
        weights = torch.tensor([float(crop.collection == COLLECTION) for crop in everybody], dtype=torch.float64)
        train_member(
            TrainingCrops(everybody),
            weights,
            everybody[::5],
            member_settings,
            tmp_path / "first",
            start=None,
            device="auto",
        )
        return tmp_path / "first"

    def test_leaves_a_member_and_goes_on_from_it(
        self, trained: Path, everybody: list[LabelledCrop], member_settings: MemberSettings, tmp_path: Path
    ) -> None:
        member = load_member(outcome(trained))
        assert not member.training
        assert member.settings == member_settings
        scores = predict(member, everybody)
        assert ((scores > 0) & (scores < 1)).all()
        assert len(history(trained)) == member_settings.epochs

        crops, weights = TrainingCrops(everybody), torch.ones(len(everybody), dtype=torch.float64)
        settings = dataclasses.replace(member_settings, learning_rate=1e-12, backbone="nonesuch")
        train_member(crops, weights, everybody[::5], settings, tmp_path / "then", start=trained, device="auto")
        then = load_member(outcome(tmp_path / "then"))
        torch.testing.assert_close(then.network.decide.weight, member.network.decide.weight, atol=1e-6, rtol=0)

    def test_temperature_divides_the_logits(self, member_settings: MemberSettings) -> None:
        member = Member(dataclasses.asdict(member_settings)).eval()
        crops = torch.randint(0, 256, (4, MEMBER_SIDE, MEMBER_SIDE), dtype=torch.uint8)
        with torch.inference_mode():
            before = member(crops)
            member.apply_temperature(2)
            torch.testing.assert_close(member(crops), before / 2)
            np.testing.assert_allclose(member.p_open(crops), torch.sigmoid(before / 2), atol=1e-6)
