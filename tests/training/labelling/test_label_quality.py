"""How right labels are, by people's answers."""

from __future__ import annotations

import pytest

from training.data.datasets import CLOSED, OPEN
from training.data.labels import Answer, Label
from training.labelling.label_quality import label_quality


def said(file: str, label: int | None, annotators: int = 1, votes_open: int = 0) -> Answer:
    return Answer(file, label, annotators, votes_open)


ANSWERS = {
    answer.file: answer
    for answer in (
        said("a", OPEN, 3, 3),
        said("b", CLOSED, 2, 0),
        said("c", OPEN, 3, 2),
        said("d", OPEN, 1, 1),
        said("e", None, 2, 1),
        said("f", OPEN, 2, 2),
    )
}


def labels(**by_file: int | None) -> list[Label]:
    return [Label(file, label, None, "consensus") for file, label in by_file.items()]


def test_only_crops_that_both_decide_are_compared() -> None:
    quality = label_quality(labels(a=OPEN, b=OPEN, c=CLOSED, d=OPEN, e=OPEN, f=None, g=OPEN), ANSWERS)
    assert quality["all"].n == 4  # e: people tie; f: no label; g: nobody was asked
    assert quality["unanimous"].n == 2  # c: outvoted; d: one person alone
    accuracy, precision = quality["all"].accuracy, quality["all"].precision_open
    assert accuracy is not None
    assert precision is not None
    assert accuracy.value == 0.5
    assert precision.value == pytest.approx(2 / 3)


def test_a_class_that_is_never_given_has_no_precision() -> None:
    quality = label_quality(labels(a=OPEN), ANSWERS)["all"]
    assert quality.precision_closed is None
    assert quality.precision_open is not None


def test_nothing_to_compare() -> None:
    quality = label_quality([], ANSWERS)["unanimous"]
    assert (quality.n, quality.accuracy, quality.precision_open) == (0, None, None)
