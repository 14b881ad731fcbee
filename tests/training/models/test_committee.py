from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import SHARES
from training.data.datasets import UNLABELLED, Crop, DataError, LabelledCrop
from training.data.folds import FOLDS, deal
from training.data.labels import read_beliefs
from training.labelling.pseudo_label import soft_targets
from training.models import committee as module
from training.models.committee import BELIEFS, load_committee, members, train_committee
from training.models.learner import Device, TrainingCrops, predict, predict_views
from training.models.member import MemberSettings, load_member, train_member
from training.models.strangers import FILE, Strangers
from training.runs import outcome, read_recipe, sha256

pytestmark = pytest.mark.usefixtures("tiny_members")


@dataclasses.dataclass
class Spy:
    """Stands before ``train_member``: keeps what each member was given, and fails where it is told to."""

    fails_at: str = ""
    weights: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    monitored: dict[str, Sequence[LabelledCrop]] = dataclasses.field(default_factory=dict)
    seeds: list[int] = dataclasses.field(default_factory=list)

    def __call__(
        self,
        crops: TrainingCrops,
        weights: torch.Tensor,
        monitored: Sequence[LabelledCrop],
        settings: MemberSettings,
        output: Path,
        *,
        start: Path | None,
        device: Device,
    ) -> Path:
        if output.name == self.fails_at:
            raise KeyboardInterrupt
        self.weights[output.name] = weights
        self.monitored[output.name] = monitored
        self.seeds.append(settings.seed)
        return train_member(crops, weights, monitored, settings, output, start=start, device=device)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    made = Spy()
    monkeypatch.setattr(module, "train_member", made)
    return made


class TestFirst:
    """A committee that learns from labelled crops alone."""

    def test_each_person_is_scored_by_the_member_that_never_saw_them(
        self, committee: Path, everybody: list[LabelledCrop]
    ) -> None:
        said = Strangers.read(committee / FILE, everybody)
        np.testing.assert_array_equal(said.folds, deal(everybody))
        for fold, run in enumerate(members(committee)):
            own = np.flatnonzero(said.folds == fold)
            scores = predict(load_member(outcome(run)), [everybody[place] for place in own])
            np.testing.assert_allclose(said.scores[own], scores, atol=1e-6)

    def test_beliefs_are_the_mean_of_all_members(self, committee: Path, pool: list[Crop]) -> None:
        scores = [predict_views(load_member(outcome(run)), pool) for run in members(committee)]
        believed = read_beliefs(committee / BELIEFS)
        assert list(believed) == [crop.name for crop in pool]
        np.testing.assert_allclose(list(believed.values()), np.mean(scores, axis=0), atol=1e-6)

    def test_records_what_it_was_made_of(self, committee: Path) -> None:
        recipe = read_recipe(committee)
        assert recipe["start"] is None
        assert recipe["shares"] == SHARES
        assert UNLABELLED not in {source["name"] for source in recipe["sources"]}


class TestSecond:
    """A committee that also learns from the unlabelled crops, and starts from another."""

    def test_learns_from_the_pool_and_is_asked_blindly(
        self,
        *,
        everybody: list[LabelledCrop],
        pool: list[Crop],
        member_settings: MemberSettings,
        committee: Path,
        tmp_path: Path,
        spy: Spy,
    ) -> None:
        crops = soft_targets(pool, read_beliefs(committee / BELIEFS), {})
        settings = dataclasses.replace(member_settings, learning_rate=1e-12)
        verdicts = train_committee(everybody, crops, settings, tmp_path / "run", shares=SHARES, start=committee)
        folds = deal(crops)
        for fold, run in enumerate(members(tmp_path / "run")):
            weights = spy.weights[run.name][len(everybody) :].numpy()
            np.testing.assert_array_equal(weights > 0, folds != fold)
            assert weights.sum() == pytest.approx(SHARES[UNLABELLED])
            member = load_member(outcome(run))
            blind = np.flatnonzero(folds == fold).tolist()
            scores = predict_views(member, [pool[place] for place in blind])
            np.testing.assert_allclose([verdicts[place].p_open or 0 for place in blind], scores, atol=1e-6)
            before = load_member(outcome(committee / run.name))
            torch.testing.assert_close(member.network.decide.weight, before.network.decide.weight, atol=1e-6, rtol=0)
        recipe = read_recipe(tmp_path / "run")
        assert recipe["start"] == [sha256(outcome(run)) for run in members(committee)]
        assert UNLABELLED in {source["name"] for source in recipe["sources"]}


class TestResuming:
    def test_continues_with_the_fold_that_was_interrupted_and_shows_no_member_its_own(
        self, everybody: list[LabelledCrop], pool: list[Crop], member_settings: MemberSettings, tmp_path: Path, spy: Spy
    ) -> None:
        run = tmp_path / "run"
        spy.fails_at = "fold_2"
        with pytest.raises(KeyboardInterrupt):
            train_committee(everybody, pool, member_settings, run, shares=SHARES)
        assert list(spy.weights) == ["fold_0", "fold_1"]
        with pytest.raises(DataError, match="no finished committee"):
            load_committee(run)
        spy.fails_at = ""
        verdicts = train_committee(everybody, pool, member_settings, run, shares=SHARES)
        assert list(spy.weights) == [f"fold_{fold}" for fold in range(FOLDS)]
        assert spy.seeds == [member_settings.seed + fold for fold in range(FOLDS)]
        again = train_committee(everybody, pool, member_settings, run, shares=SHARES)
        assert again == verdicts
        assert len(spy.seeds) == FOLDS

        folds = deal(everybody)
        for fold in range(FOLDS):
            weights = spy.weights[f"fold_{fold}"].numpy()
            np.testing.assert_array_equal(weights > 0, folds != fold)
            assert weights.sum() == pytest.approx(1)
            own = [crop for crop, dealt in zip(everybody, folds.tolist(), strict=True) if dealt == fold]
            assert list(spy.monitored[f"fold_{fold}"]) == own

    def test_other_data_move_the_run_aside(
        self, everybody: list[LabelledCrop], pool: list[Crop], member_settings: MemberSettings, tmp_path: Path, spy: Spy
    ) -> None:
        spy.fails_at = "fold_1"
        for crops in (pool, pool[:-1]):
            with pytest.raises(KeyboardInterrupt):
                train_committee(everybody, crops, member_settings, tmp_path / "run", shares=SHARES)
        assert len(spy.seeds) == 2
        assert (tmp_path / "run.previous" / "fold_0" / "scores.npz").exists()


def test_answers_with_the_mean_log_odds(committee: Path, everybody: list[LabelledCrop]) -> None:
    network = load_committee(committee)
    alone = [predict(load_member(outcome(run)), everybody) for run in members(committee)]
    log_odds = np.mean([np.log(p / (1 - p)) for p in alone], axis=0)
    np.testing.assert_allclose(predict(network, everybody), 1 / (1 + np.exp(-log_odds)), atol=1e-5)
    for temperature in (2, 1.5):
        network.apply_temperature(temperature)
    np.testing.assert_allclose(predict(network, everybody), 1 / (1 + np.exp(-log_odds / 3)), atol=1e-5)


def test_every_collection_needs_a_share(
    everybody: list[LabelledCrop], pool: list[Crop], member_settings: MemberSettings, tmp_path: Path
) -> None:
    shares = {UNLABELLED: 1.0}
    with pytest.raises(DataError, match="no share of the draws is given for MRL Eye Dataset"):
        train_committee(everybody, pool, member_settings, tmp_path / "run", shares=shares)


def test_no_committee_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="python -m training committee"):
        members(tmp_path)
