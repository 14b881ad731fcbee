"""Which crops are trained on and which are tested on: no subject in two parts, no crop without a label."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.datasets import CLOSED, OPEN, Crop, DataError, LabelledCrop, data_dir, load_mrl
from training.data.split import SPLIT_FOLDS, Split, split_by_subject


def people(closed_and_open: list[tuple[int, int]]) -> list[LabelledCrop]:
    """One subject for each pair: its closed and its open eyes."""
    return [
        LabelledCrop(f"s{subject:04}_{i:05}.png", b"", label, f"s{subject:04}")
        for subject, numbers in enumerate(closed_and_open)
        for label, n in zip((CLOSED, OPEN), numbers, strict=True)
        for i in range(n)
    ]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20)
    | st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=SPLIT_FOLDS, max_size=20)
)
def test_split_shares_no_subject_and_loses_no_crop(closed_and_open: list[tuple[int, int]]) -> None:
    crops = people(closed_and_open)
    try:
        split = split_by_subject(crops)
    except DataError:
        assert len(closed_and_open) < SPLIT_FOLDS or any(0 in numbers for numbers in closed_and_open)
        return
    parts = split.parts()
    assert list(parts) == ["train", "val", "test"]
    subjects = [{crop.subject for crop in part} for part in parts.values()]
    assert sum(map(len, subjects)) == len(set().union(*subjects))
    assert sorted(chain(*parts.values()), key=crops.index) == crops
    for part in parts.values():
        assert {crop.label for crop in part} == {CLOSED, OPEN}
        assert part == sorted(part, key=crops.index)
    assert split_by_subject(crops) == split


def test_seven_balanced_subjects_are_enough() -> None:
    split = split_by_subject(people([(3, 3)] * SPLIT_FOLDS))
    assert {name: len(part) for name, part in split.parts().items()} == {"train": 30, "val": 6, "test": 6}


def test_uninformative_subjects_are_for_training() -> None:
    crops = people([(400, 400), (300, 0), (0, 300), *[(12, 8)] * 12])
    split = split_by_subject(crops)
    assert {"s0000", "s0001", "s0002"} <= {crop.subject for crop in split.train}


@pytest.mark.parametrize(
    ("crops", "reason"),
    [
        (people([(9, 9)] * 6), "6 subjects; at least 7"),
        (people([(1, 1)] * 6 + [(9, 0)]), "7 crops of each label"),
        (people([(9, 0)] * 9), "7 crops of each label"),
        (people([(9, 0)] * 8 + [(0, 9)]), "too few subjects have both"),
        ([*people([(9, 9)] * 9), LabelledCrop("_17.png", b"", OPEN)], "no subject in their file name"),
        ([], "0 subjects"),
    ],
)
def test_what_cannot_be_split(crops: list[LabelledCrop], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        split_by_subject(crops)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_unlabelled_crops_are_refused(part: str) -> None:
    labelled = people([(1, 1)])
    parts: dict[str, Any] = {"train": labelled, "val": labelled, "test": labelled}
    parts[part] = [*labelled, Crop("a.png", b"")]
    with pytest.raises(DataError, match=rf"{part} has 1 crops without a label, such as a\.png"):
        Split(**parts)


@pytest.mark.shared
def test_split_of_the_real_mrl() -> None:
    crops = load_mrl(data_dir() / "mrl-eyes.zip").crops
    parts = split_by_subject(crops).parts().values()
    subjects = [{crop.subject for crop in part} for part in parts]
    assert sum(map(len, subjects)) == 28
    assert sum(map(len, parts)) == len(crops)
    for part in parts:
        assert len({crop.subject for crop in part}) >= 5
        assert 0.4 < np.mean([crop.label == OPEN for crop in part]) < 0.6
