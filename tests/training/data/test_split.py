"""Which crops are trained on and which are tested on: no subject in two parts, no crop without a label."""

from __future__ import annotations

import io
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eyestate.images import decode
from training.data.datasets import CLOSED, OPEN, Crop, DataError, LabelledCrop, data_dir, load_mrl
from training.data.duplicates import near_duplicates
from training.data.split import HELD_OUT, SPLIT_FOLDS, Split, hold_out, read_pool, split_by_subject
from training.data.synthetic import labelled


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


def jpeg(crop: Crop, quality: int) -> Crop:
    """The crop, re-encoded."""
    file = io.BytesIO()
    Image.fromarray(decode(crop.data)).save(file, "JPEG", quality=quality)
    return Crop(f"{crop.name} at {quality}", file.getvalue())


def png(name: str, pixels: Any) -> Crop:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return Crop(name, file.getvalue())


class TestHoldOut:
    EYES = tuple(png(f"{number:02}", pixels) for number, (pixels, _) in enumerate(labelled(20, seed=70)))

    @settings(max_examples=20)
    @given(st.lists(st.tuples(st.integers(0, 19), st.integers(70, 95)), unique=True, max_size=12))
    def test_no_copy_of_a_held_out_crop_is_learnt_from(self, copies: list[tuple[int, int]]) -> None:
        crops = [*self.EYES, *(jpeg(self.EYES[eye], quality) for eye, quality in copies)]
        pool, held_out = hold_out(crops)
        groups = dict(zip((crop.name for crop in crops), near_duplicates(crops).tolist(), strict=True))
        judging = {groups[crop.name] for crop in held_out}
        assert not judging & {groups[crop.name] for crop in pool}
        left_out = [crop for crop in crops if crop not in pool and crop not in held_out]
        assert all(groups[crop.name] in judging for crop in left_out)
        assert [crop for crop in crops if crop in pool] == pool
        assert [crop for crop in crops if crop in held_out] == held_out

    def test_a_crop_stays_on_its_side_when_others_come(self) -> None:
        first, all_of_them = hold_out(self.EYES[:10])[1], hold_out(self.EYES)[1]
        assert [crop for crop in all_of_them if crop in self.EYES[:10]] == first

    def test_about_a_quarter_is_held_out(self) -> None:
        tones = [png(str(seed), np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)) for seed in range(400)]
        pool, held_out = hold_out(tones)
        assert len(held_out) / len(tones) == pytest.approx(HELD_OUT, abs=0.07)
        assert len(pool) + len(held_out) == len(tones)

    def test_nothing(self) -> None:
        assert hold_out([]) == ([], [])

    def test_the_pool_of_a_folder(self, tmp_path: Path) -> None:
        for crop in self.EYES:
            (tmp_path / f"{crop.name}.png").write_bytes(crop.data)
        assert [crop.data for crop in read_pool(tmp_path)] == [crop.data for crop in hold_out(self.EYES)[0]]


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
