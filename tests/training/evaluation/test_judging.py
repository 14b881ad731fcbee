from __future__ import annotations

import numpy as np
import pytest

from eyestate.bundle import Thresholds
from eyestate.images import decode
from training.data.datasets import FAR_SIDE, MRL, LabelledCrop
from training.data.folds import deal
from training.evaluation.judging import (
    EASY,
    FAR_SAMPLE,
    HELD_OUT,
    STRANGERS,
    STRANGERS_FAR,
    all_slices,
    by_person,
    metrics,
    share,
    stranger_sets,
    threshold_crops,
)
from training.evaluation.results import ScoredCrops
from training.models.strangers import Strangers

THRESHOLDS = Thresholds(closed=0.2, open=0.8, rule="made for a test")


@pytest.fixture
def said(everybody: list[LabelledCrop]) -> Strangers:
    """Right of near crops, and undecided from afar."""
    scores = np.array([(0.05, 0.95)[crop.label] for crop in everybody])
    return Strangers(scores, np.full(len(everybody), 0.5), deal(everybody))


def crops_of(scores: list[float], labels: list[int], subject: str | None = None) -> ScoredCrops:
    return ScoredCrops([LabelledCrop("", b"", label, subject) for label in labels], np.array(scores))


def test_every_collection_is_a_set_of_its_own(everybody: list[LabelledCrop], said: Strangers) -> None:
    sets = stranger_sets(everybody, said)
    assert list(sets) == [STRANGERS, STRANGERS_FAR, "colour, people never seen"]
    mrl = [crop for crop in everybody if crop.collection == MRL]
    assert sets[STRANGERS].crops == sets[STRANGERS_FAR].crops == mrl
    assert set(sets[STRANGERS].scores) == {0.05, 0.95}
    assert set(sets[STRANGERS_FAR].scores) == {0.5}
    assert len(sets["colour, people never seen"].crops) == len(everybody) - len(mrl)


def test_thresholds_are_chosen_by_mrl_near_and_from_afar(everybody: list[LabelledCrop], said: Strangers) -> None:
    scored = threshold_crops(everybody, said)
    near = sum(crop.collection == MRL for crop in everybody)
    assert {crop.collection for crop in scored.crops} == {MRL}
    assert len(scored.crops) == len(scored.scores) == near + -(-near // FAR_SAMPLE)
    assert {decode(crop.data).shape for crop in scored.crops[near:]} == {(FAR_SIDE, FAR_SIDE)}
    assert set(scored.scores[near:]) == {0.5}
    names = [crop.name for crop in scored.crops]
    assert names[near:] == names[:near:FAR_SAMPLE]


def test_metrics_count_the_uncertain_and_the_wrong_among_the_others() -> None:
    sets = {
        HELD_OUT: crops_of([0.1, 0.2, 0.3, 0.7, 0.8, 0.9, 0.95, 0.1], [0, 0, 0, 1, 1, 1, 0, 1]),
        EASY: crops_of([0.5, 0.6], [0, 1]),
    }
    found = {metric.name: metric for metric in metrics(sets, THRESHOLDS)}
    assert list(found) == [
        f"EER, {HELD_OUT}",
        f"EER, {EASY}",
        f"Uncertain, {HELD_OUT}",
        f"Wrong among the sure, {HELD_OUT}",
        f"Uncertain, {EASY}",  # nobody is sure of those
    ]
    uncertain, wrong = found[f"Uncertain, {HELD_OUT}"], found[f"Wrong among the sure, {HELD_OUT}"]
    assert (uncertain.value, uncertain.n) == (2 / 8, 8)
    assert (wrong.value, wrong.n) == (2 / 6, 6)
    assert all(metric.low <= metric.value <= metric.high for metric in found.values())


def test_share() -> None:
    found = share("chosen", np.array([True, False, False, False]))
    assert (found.name, found.value, found.n) == ("chosen", 0.25, 4)


def test_slices_of_held_out_crops_and_of_strangers(everybody: list[LabelledCrop], said: Strangers) -> None:
    sets = stranger_sets(everybody, said)
    found = all_slices(sets)
    whole = [item for item in found if item.attribute == "all"]
    assert [item.of for item in whole] == list(sets)
    assert [item.crops for item in whole] == [len(scored.crops) for scored in sets.values()]
    parts = [item for item in found if item.attribute != "all"]
    assert {item.of for item in parts} == {STRANGERS}
    assert {item.attribute for item in parts} > {"glasses", "subject", "brightness"}


def test_by_person_leaves_out_those_with_one_state() -> None:
    people = [
        crops_of([0.1, 0.9], [0, 1], "right"),
        crops_of([0.9, 0.1], [0, 1], "wrong"),
        crops_of([0.9, 0.1], [1, 1], "always open"),
    ]
    scored = ScoredCrops(
        [crop for person in people for crop in person.crops], np.concatenate([person.scores for person in people])
    )
    assert by_person(scored) == [0, 1]
