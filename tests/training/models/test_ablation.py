from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.conftest import COLLECTION, SHARES
from training.data.datasets import MRL, UNLABELLED, Crop, LabelledCrop
from training.data.folds import deal
from training.labelling.pseudo_label import doubt_labels
from training.models import ablation
from training.models.ablation import (
    BASELINE,
    FOLD,
    HELD_OUT,
    Believed,
    Outcome,
    Variant,
    ablate,
    believe,
    summary,
    write_outcomes,
)
from training.models.committee import load_committee, members
from training.models.learner import TrainingCrops, predict_views
from training.models.member import MemberSettings, load_member
from training.models.strangers import FILE, Strangers
from training.runs import outcome, read_recipe

Study = Callable[[Path], list[Outcome]]
VARIANTS = (
    BASELINE,
    Variant("MRL's crops alone", collections=frozenset({MRL})),
    Variant("random weights", {"backbone": ""}),
    Variant("sharpness-aware", {"radius": 0.05}),
    Variant("more colour", shares={COLLECTION: 0.9}),
    Variant("verdicts", pool="verdicts"),
    Variant("beliefs", doubt=True, pool="beliefs"),
)


@pytest.fixture(autouse=True)
def _tiny(tiny_members: None) -> None:
    """``TinyNetwork`` in place of InceptionResnetV1."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture
def believed(everybody: list[LabelledCrop], pool: list[Crop]) -> Believed:
    """All labels certain but for those of ``COLLECTION``, and what is believed of the pool."""
    people = [crop.labelled(crop.label, 0.3 if crop.collection == COLLECTION else None) for crop in everybody]
    return Believed(people, [crop.labelled(n % 2, 0.2 + 0.6 * (n % 2)) for n, crop in enumerate(pool)])


@pytest.fixture
def study(everybody: list[LabelledCrop], believed: Believed, member_settings: MemberSettings) -> Study:
    """Trains and judges ``VARIANTS`` with one seed, in the given folder."""

    def run(output: Path) -> list[Outcome]:
        judges = everybody[:20]
        return ablate(everybody, believed, judges, member_settings, output, shares=SHARES, seeds=[0], variants=VARIANTS)

    return run


@pytest.fixture
def outcomes(study: Study, output: Path) -> list[Outcome]:
    """What came out, of trainings that the first test does and the others find done."""
    return study(output)


def test_every_variant_is_judged_by_people_it_never_saw(outcomes: list[Outcome]) -> None:
    assert [each.variant for each in outcomes] == [variant.name for variant in VARIANTS]
    for each in outcomes:
        assert set(each.eers) == {*SHARES, HELD_OUT} - {UNLABELLED}
        assert all(0 <= eer <= 1 for eer in each.eers.values())


def test_what_every_variant_learns_from(
    outcomes: list[Outcome], everybody: list[LabelledCrop], pool: list[Crop], output: Path
) -> None:
    recipes = [read_recipe(output / str(number) / "0") for number in range(len(outcomes))]
    crops = [*everybody, *pool]
    folds = np.concatenate([deal(everybody), deal(pool)])
    others = Counter(crop.collection for crop, fold in zip(crops, folds.tolist(), strict=True) if fold != FOLD)
    people = {name: n for name, n in others.items() if name != UNLABELLED}
    learnt_from = [{source["name"]: source["crops"] for source in recipe["sources"]} for recipe in recipes]
    assert learnt_from == [people, {MRL: others[MRL]}, people, people, people, others, others]
    assert [bool(recipe["settings"]["backbone"]) for recipe in recipes] == [True, True, False, True, True, True, True]


@pytest.mark.usefixtures("outcomes")
def test_what_every_variant_is_trained_towards(
    monkeypatch: pytest.MonkeyPatch, study: Study, believed: Believed, everybody: list[LabelledCrop], output: Path
) -> None:
    given = []

    def spy(crops: TrainingCrops, weights: torch.Tensor, *_: Any, **__: Any) -> Path:
        given.append((crops.targets, weights))
        return outcome(output / "0" / "0")

    monkeypatch.setattr(ablation, "train_member", spy)
    study(output.with_name("spied"))
    people = len(everybody)
    labels = torch.tensor([crop.label for crop in everybody], dtype=torch.float32)
    doubted = labels.where(torch.tensor([crop.collection != COLLECTION for crop in everybody]), torch.tensor(0.3))
    assert len(given) == len(VARIANTS)
    assert all(torch.equal(targets[:people], labels) for targets, _ in given[:-1])
    assert torch.equal(given[-1][0][:people], doubted)
    assert sorted(set(given[5][0][people:].tolist())) == [0, 1]
    assert sorted(set(given[6][0][people:].tolist())) == pytest.approx([0.2, 0.8])
    colour = torch.tensor([crop.collection == COLLECTION for crop in [*everybody, *believed.pool]])
    assert float(given[4][1][colour].sum()) == pytest.approx(0.9 / 1.4)


def test_continues(study: Study, outcomes: list[Outcome], output: Path) -> None:
    written = (output / "0" / "0" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert study(output) == outcomes
    assert (output / "0" / "0" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == written


def test_beliefs_are_of_the_member_that_did_not_learn_from_the_crop(
    committee: Path, everybody: list[LabelledCrop], pool: list[Crop]
) -> None:
    teacher = load_committee(committee)
    believed = believe(everybody, pool, teacher)
    for fold, run in enumerate(members(committee)):
        member = load_member(outcome(run))
        own = np.flatnonzero(deal(pool) == fold).tolist()
        said = predict_views(member, [pool[place] for place in own])
        assert [believed.pool[place].target for place in own] == pytest.approx(said.tolist(), abs=1e-6)
    said = Strangers.read(committee / FILE, everybody).scores
    expected = doubt_labels(everybody, said)
    assert [crop.target for crop in believed.labelled] == pytest.approx([crop.target for crop in expected])


def test_tables(tmp_path: Path) -> None:
    outcomes = [Outcome("a", 0, {MRL: 0.02}), Outcome("b", 0, {MRL: 0.04}), Outcome("a", 1, {MRL: 0.04})]
    write_outcomes(outcomes, tmp_path / "reports" / "eer.csv")
    with (tmp_path / "reports" / "eer.csv").open() as file:
        assert [row["variant"] for row in csv.DictReader(file)] == ["a", "b", "a"]
    assert "| a | 0.0300 (0.0200 to 0.0400) |" in summary(outcomes)
    assert "| b | 0.0400 (0.0400 to 0.0400) |" in summary(outcomes)
