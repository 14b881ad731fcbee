from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.datasets import Crop, DataError, LabelledCrop, shrunk
from training.data.folds import FOLDS, deal
from training.models.learner import Learner, predict, predict_views
from training.models.strangers import FILE, MONITORED, Strangers, sample, score_strangers


class Brightness(Learner):
    """P(open) is the mean brightness, raised to a power."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.side = 16
        self.power = power

    def p_open(self, crops: torch.Tensor) -> torch.Tensor:
        return (crops.float().mean(dim=(1, 2)) / 255) ** self.power


class Trainer:
    """Makes a network of each fold, unlike the others, and keeps what it must not learn from."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at
        self.unseen: dict[int, Sequence[LabelledCrop]] = {}

    def __call__(self, fold: int, unseen: Sequence[LabelledCrop], run: Path) -> Learner:
        if fold == self.fails_at:
            raise KeyboardInterrupt
        assert run.name == f"fold_{fold}"
        self.unseen[fold] = unseen
        return Brightness(fold + 1)


def test_each_crop_is_scored_by_the_network_of_its_fold(
    everybody: list[LabelledCrop], pool: list[Crop], tmp_path: Path
) -> None:
    train = Trainer()
    of_pool = score_strangers(everybody, tmp_path, train, pool=pool)
    said = Strangers.read(tmp_path / FILE, everybody)
    np.testing.assert_array_equal(said.folds, deal(everybody))
    assert of_pool.shape == (FOLDS, len(pool))
    for fold in range(FOLDS):
        network, own = Brightness(fold + 1), np.flatnonzero(said.folds == fold)
        unseen = [everybody[place] for place in own]
        assert train.unseen[fold] == unseen
        np.testing.assert_allclose(said.scores[own], predict(network, unseen))
        np.testing.assert_allclose(said.far[own], predict(network, [shrunk(crop) for crop in unseen]))
        np.testing.assert_allclose(of_pool[fold], predict_views(network, pool))


def test_finished_folds_are_not_trained_again(everybody: list[LabelledCrop], pool: list[Crop], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score_strangers(everybody, tmp_path, Trainer(fails_at=3), pool=pool)
    assert not (tmp_path / FILE).exists()
    rest = Trainer()
    of_pool = score_strangers(everybody, tmp_path, rest, pool=pool)
    assert sorted(rest.unseen) == [3, 4]
    np.testing.assert_allclose(of_pool[0], predict_views(Brightness(1), pool))


def test_comes_back_from_its_file(everybody: list[LabelledCrop], tmp_path: Path) -> None:
    n = len(everybody)
    said = Strangers(np.linspace(0, 1, n), np.linspace(1, 0, n), np.arange(n) % FOLDS)
    said.write(tmp_path / FILE)
    found = Strangers.read(tmp_path / FILE, everybody)
    np.testing.assert_array_equal(found.scores, said.scores)
    np.testing.assert_array_equal(found.far, said.far)
    np.testing.assert_array_equal(found.folds, said.folds)
    with pytest.raises(DataError, match=f"about {n} labelled crops, not these {n - 1}"):
        Strangers.read(tmp_path / FILE, everybody[1:])


def test_missing(everybody: list[LabelledCrop], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="python -m training committee"):
        Strangers.read(tmp_path / FILE, everybody)


@pytest.mark.parametrize(("crops", "kept"), [(0, 0), (3, 3), (MONITORED, MONITORED), (5 * MONITORED, MONITORED)])
def test_sample_is_even_and_small(crops: int, kept: int) -> None:
    numbered = [LabelledCrop(str(number), b"", 0) for number in range(crops)]
    found = [int(crop.name) for crop in sample(numbered)]
    assert len(found) == kept
    assert len({second - first for first, second in pairwise(found)}) <= 1
