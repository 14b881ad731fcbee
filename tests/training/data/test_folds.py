from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.datasets import CLOSED, MRL, OPEN, Crop, DataError, LabelledCrop, labels_of
from training.data.folds import FOLDS, deal


@pytest.fixture(autouse=True)
def _few_of_a_label() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        yield


def crops_of(collection: str, closed_and_open: list[tuple[int, int]]) -> list[LabelledCrop]:
    """One person for each pair: their closed and their open eyes."""
    return [
        LabelledCrop(f"{person}_{label}{i}.jpg", b"", label, f"{collection}/{person}", collection=collection)
        for person, numbers in enumerate(closed_and_open)
        for label, n in zip((CLOSED, OPEN), numbers, strict=True)
        for i in range(n)
    ]


people = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=FOLDS, max_size=15)


@settings(max_examples=30)
@given(people, people, st.randoms(use_true_random=False))
def test_no_person_is_in_two_folds_and_every_crop_in_one(
    first: list[tuple[int, int]], second: list[tuple[int, int]], random: Random
) -> None:
    crops = [*crops_of(MRL, first), *crops_of("colour", second)]
    random.shuffle(crops)
    folds = deal(crops)
    assert folds.shape == (len(crops),)
    dealt: dict[str | None, set[int]] = {}
    for crop, fold in zip(crops, folds.tolist(), strict=True):
        dealt.setdefault(crop.subject, set()).add(fold)
    assert all(len(found) == 1 for found in dealt.values())
    for collection in (MRL, "colour"):
        own = [fold for crop, fold in zip(crops, folds.tolist(), strict=True) if crop.collection == collection]
        assert set(own) == set(range(FOLDS))
    np.testing.assert_array_equal(deal(crops), folds)


@settings(max_examples=20)
@given(people, people)
def test_a_collection_is_dealt_the_same_whatever_else_there_is(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    alone, others = crops_of(MRL, first), crops_of("colour", second)
    np.testing.assert_array_equal(deal([*alone, *others])[: len(alone)], deal(alone))


def test_folds_are_alike_in_size_and_label() -> None:
    crops = crops_of(MRL, [(8, 2), (2, 8)] * 10)
    folds = deal(crops)
    assert np.bincount(folds).tolist() == [40] * FOLDS
    assert np.bincount(folds, weights=labels_of(crops)).tolist() == [20] * FOLDS


@pytest.mark.parametrize("n", [1, FOLDS - 1])
def test_too_few_people(n: int) -> None:
    crops = [*crops_of(MRL, [(3, 3)] * FOLDS), *crops_of("colour", [(3, 3)] * n)]
    with pytest.raises(DataError, match=f"cannot deal the {6 * n} crops of {n} people of colour into {FOLDS} folds"):
        deal(crops)


def test_too_few_crops_of_either_label() -> None:
    with pytest.raises(DataError, match="cannot deal the 5 crops of 5 people of colour"):
        deal(crops_of("colour", [(1, 0), (1, 0), (1, 0), (0, 1), (0, 1)]))


def test_nobody_needs_no_folds() -> None:
    assert deal([]).shape == (0,)


class TestUnknownPeople:
    def test_are_dealt_whatever_is_believed_of_them(self, pool: list[Crop]) -> None:
        folds = deal(pool)
        assert set(folds.tolist()) == set(range(FOLDS))
        for p in (0.1, 0.9):
            np.testing.assert_array_equal(deal([crop.labelled(round(p), target=p) for crop in pool]), folds)
        mixed = [crop.labelled(place % 2, target=place / len(pool)) for place, crop in enumerate(pool)]
        np.testing.assert_array_equal(deal(mixed), folds)

    def test_stay_with_their_copies(self, pool: list[Crop]) -> None:
        copies = [dataclasses.replace(crop, name=f"copy of {crop.name}") for crop in pool]
        folds = deal([*pool, *copies])
        np.testing.assert_array_equal(folds[: len(pool)], folds[len(pool) :])
