from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from tests.training.conftest import SHARES
from training.data.datasets import MRL, LabelledCrop
from training.data.folds import deal
from training.models.ablation import BASELINE, FOLD, HELD_OUT, Outcome, Variant, ablate, summary, write_outcomes
from training.models.member import MemberSettings
from training.runs import read_recipe

VARIANTS = (
    BASELINE,
    Variant("MRL's crops alone", collections=frozenset({MRL})),
    Variant("random weights", {"backbone": ""}),
)


@pytest.fixture(autouse=True)
def _tiny(tiny_members: None) -> None:
    """``TinyNetwork`` in place of InceptionResnetV1."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation")


def run(everybody: list[LabelledCrop], settings: MemberSettings, output: Path, seeds: int = 1) -> list[Outcome]:
    held_out = everybody[:20]
    return ablate(everybody, held_out, settings, output, shares=SHARES, seeds=range(seeds), variants=VARIANTS)


def test_every_variant_is_judged_by_people_it_never_saw(
    everybody: list[LabelledCrop], member_settings: MemberSettings, output: Path
) -> None:
    outcomes = run(everybody, member_settings, output)
    assert [outcome.variant for outcome in outcomes] == [variant.name for variant in VARIANTS]
    for outcome in outcomes:
        assert set(outcome.eers) == {*SHARES, HELD_OUT} - {"eye crops without labels"}
        assert all(0 <= eer <= 1 for eer in outcome.eers.values())
    recipes = [read_recipe(output / str(number) / "0") for number in range(len(VARIANTS))]
    folds = deal(everybody)
    collections = Counter(crop.collection for crop, fold in zip(everybody, folds.tolist(), strict=True) if fold != FOLD)
    learnt_from = [{source["name"]: source["crops"] for source in recipe["sources"]} for recipe in recipes]
    assert learnt_from == [collections, {MRL: collections[MRL]}, collections]
    assert [bool(recipe["settings"]["backbone"]) for recipe in recipes] == [True, True, False]


def test_continues(everybody: list[LabelledCrop], member_settings: MemberSettings, output: Path) -> None:
    first = run(everybody, member_settings, output)
    written = (output / "0" / "0" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    assert run(everybody, member_settings, output) == first
    assert (output / "0" / "0" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == written


def test_tables(tmp_path: Path) -> None:
    outcomes = [Outcome("a", 0, {MRL: 0.02}), Outcome("b", 0, {MRL: 0.04}), Outcome("a", 1, {MRL: 0.04})]
    write_outcomes(outcomes, tmp_path / "reports" / "eer.csv")
    with (tmp_path / "reports" / "eer.csv").open() as file:
        assert [row["variant"] for row in csv.DictReader(file)] == ["a", "b", "a"]
    assert "| a | 0.0300 (0.0200 to 0.0400) |" in summary(outcomes)
    assert "| b | 0.0400 (0.0400 to 0.0400) |" in summary(outcomes)
