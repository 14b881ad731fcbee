from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from training.data.datasets import Crop
from training.data.labels import Answer, read_labels
from training.data.split import Split
from training.labelling.self_train import FOLDS, self_train
from training.models.classifier import Settings
from training.runs import read_recipe


@pytest.fixture(scope="module")
def pool(split: Split) -> list[Crop]:
    """Unlabelled crops: some of the miniature's, without what is known of them."""
    return [Crop(crop.name.replace("/", "-"), crop.data) for crop in split.test]


def test_every_crop_is_believed_by_networks_that_never_saw_it(
    tiny_run: Path, split: Split, tiny: Settings, pool: list[Crop], tmp_path: Path
) -> None:
    settings = dataclasses.replace(tiny, patience=0)
    beliefs = {crop.name: float(i % 2) for i, crop in enumerate(pool)}
    output = tmp_path / "self_train"
    answers = {pool[0].name: Answer(pool[0].name, 1, 1, 1)}

    def once(rounds: int) -> list[float | None]:
        verdicts = self_train(
            split, pool, output, beliefs=beliefs, answers=answers, settings=settings, start=tiny_run, rounds=rounds
        )
        assert [item.file for item in verdicts] == [crop.name for crop in pool]
        assert read_labels(output / "beliefs.csv") == [
            dataclasses.replace(item, p_open=round(item.p_open or 0, 6)) for item in verdicts
        ]
        return [item.p_open for item in verdicts]

    first = once(1)
    assert all(p is not None and 0 <= p <= 1 for p in first)
    folds = [output / "round_1" / f"fold_{fold}" for fold in range(FOLDS)]
    assert sum(len(np.load(fold / "scores.npy")) for fold in folds) == len(pool)
    trained_on = [
        next(source["crops"] for source in read_recipe(fold)["sources"] if not source["subjects"]) for fold in folds
    ]
    assert sum(trained_on) == len(pool)  # sure of all at first, so each crop trains the networks of the other folds

    stamps = [(fold / "checkpoints" / "last.ckpt").stat().st_mtime_ns for fold in folds]
    assert once(1) == first
    assert [(fold / "checkpoints" / "last.ckpt").stat().st_mtime_ns for fold in folds] == stamps
