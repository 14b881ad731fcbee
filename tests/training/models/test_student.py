from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eyestate.bundle import load_bundle
from eyestate.scorer import Network as Teacher
from tests.bundles import write_bundle
from training.data.datasets import DataError
from training.data.split import Split
from training.evaluation.logits import MAX_LOGIT, log_odds
from training.models.distillation_set import read_distillation_set, write_distillation_set
from training.models.student import SIDE, Network, Student, StudentSettings, distil, load_student, tune
from training.runs import history

SMALL = StudentSettings(width=4, epochs=2, batch_size=32, average_decay=0.5)
VIEWS = 96


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    """Its scores are mean brightness."""
    return Teacher(load_bundle(write_bundle(tmp_path_factory.mktemp("teacher"))), "cpu")


@pytest.fixture(scope="module")
def distillation_set(split: Split, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("distillation_set")
    write_distillation_set(split.train, teacher, output, side=SIDE, views=VIEWS, own_share=0.5, seed=0)
    return output


@pytest.fixture(scope="module")
def run(distillation_set: Path, split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "student"
    distil(distillation_set, split.train, split.val, SMALL, output)
    return output


class TestDistillationSet:
    def test_holds_what_the_teacher_says_of_the_views(self, distillation_set: Path) -> None:
        views = read_distillation_set(distillation_set)
        assert views.crops.shape == (VIEWS, SIDE, SIDE)
        assert views.crops.dtype == np.uint8
        assert set(views.labels) == {0.0, 1.0}
        brightness = views.crops.mean(axis=(1, 2)) / 255
        said = 1 / (1 + np.exp(-views.logits))
        assert np.corrcoef(brightness, said)[0, 1] > 0.99

    def test_continues_after_the_last_whole_file(
        self, split: Split, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("training.models.distillation_set.PART", 16)
        asked = partial(write_distillation_set, split.train, teacher, side=SIDE, views=40, own_share=0.5, seed=1)
        asked(tmp_path / "whole")
        asked(tmp_path / "killed")
        before = (tmp_path / "killed" / "0000.npz").stat().st_mtime_ns
        (tmp_path / "killed" / "0001.npz").unlink()
        asked(tmp_path / "killed")
        whole, killed = (read_distillation_set(tmp_path / name) for name in ("whole", "killed"))
        assert len(whole.crops) == 40
        np.testing.assert_array_equal(whole.crops, killed.crops)
        assert (tmp_path / "killed" / "0000.npz").stat().st_mtime_ns == before

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="training distillation-set"):
            read_distillation_set(tmp_path)

    @given(st.floats(0, 1, width=32))
    def test_log_odds_are_finite_and_true(self, p: float) -> None:
        (logit,) = log_odds(np.array([p], np.float32))
        assert abs(logit) <= MAX_LOGIT
        if 1e-6 < p < 1 - 1e-6:
            assert 1 / (1 + np.exp(-float(logit))) == pytest.approx(p, abs=1e-6)


class TestNetwork:
    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 1000), st.integers(0, 2))
    def test_fused_computes_the_same(self, seed: int, depth: int) -> None:
        torch.manual_seed(seed)
        network = Network(4, depth)
        crops = torch.randint(0, 256, (8, SIDE, SIDE), dtype=torch.uint8)
        network.train()(crops)  # so that the batch norms have seen something
        network.eval()
        torch.testing.assert_close(network.fused()(crops), network(crops), atol=1e-4, rtol=1e-4)

    def test_brightness_and_contrast_do_not_matter(self) -> None:
        network = Network(4, 1).eval()
        crops = torch.randint(0, 100, (4, SIDE, SIDE), dtype=torch.uint8)
        torch.testing.assert_close(network(crops), network(2 * crops + 50), atol=1e-2, rtol=1e-2)


class TestDistil:
    def test_learns(self, run: Path, split: Split) -> None:
        epochs = history(run)
        assert len(epochs) == SMALL.epochs
        assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
        recipe = json.loads((run / "run.json").read_text())
        assert recipe["teacher"]["name"] == "brightness"
        assert {source["name"] for source in recipe["sources"]} == {"MRL Eye Dataset"}

    def test_loads_as_it_ships(self, run: Path) -> None:
        checkpoint = run / "checkpoints" / "last.ckpt"
        crops = torch.randint(0, 256, (8, SIDE, SIDE), dtype=torch.uint8)
        trained = Student.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True).eval()
        shipped = load_student(checkpoint)
        torch.testing.assert_close(shipped.p_open(crops), trained.p_open(crops), atol=1e-4, rtol=1e-4)
        logits = shipped(crops)
        shipped.apply_temperature(2)
        torch.testing.assert_close(shipped(crops), logits / 2)

    def test_views_of_another_size(self, split: Split, teacher: Teacher, tmp_path: Path) -> None:
        write_distillation_set(
            split.train, teacher, tmp_path / "distillation_set", side=16, views=32, own_share=0.5, seed=0
        )
        with pytest.raises(DataError, match="32×32"):
            distil(tmp_path / "distillation_set", split.train, split.val, SMALL, tmp_path / "run")


def test_search_continues(distillation_set: Path, split: Split, tmp_path: Path) -> None:
    short = dataclasses.replace(SMALL, epochs=1)
    table = tmp_path / "reports" / "search.csv"
    tune(distillation_set, split.val, short, tmp_path, table, views=64, trials=1)
    best = tune(distillation_set, split.val, short, tmp_path, table, views=64, trials=2)
    rows = table.read_text().splitlines()
    assert len(rows) == 1 + 2
    assert 0 <= best["eer"] <= 1
    assert 1e-3 <= best["learning_rate"] <= 1e-2
