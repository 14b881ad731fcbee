from __future__ import annotations

from training.data.datasets import Crop
from training.data.labels import Answer
from training.evaluation.compare import ATTEMPTS, agreed


def test_only_crops_on_which_two_people_agree_judge() -> None:
    crops = [Crop(name, b"") for name in ("one", "tie", "two", "three", "nobody")]
    answers = {
        "one": Answer("one", 1, 1, 1),
        "tie": Answer("tie", None, 2, 1),
        "two": Answer("two", 0, 2, 0),
        "three": Answer("three", 1, 3, 2),
    }
    assert [(crop.name, crop.label) for crop in agreed(crops, answers)] == [("two", 0)]


def test_attempts_have_names_of_their_own() -> None:
    assert len({attempt.name for attempt in ATTEMPTS}) == len(ATTEMPTS)
