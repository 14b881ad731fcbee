from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eyestate.bundle import Bundle, load_bundle, models_dir
from tests.training.conftest import SHARES
from tests.training.tiny import MEMBER_SIDE, TinyNetwork
from training.data.datasets import MRL, Crop, DataError, LabelledCrop, sources
from training.data.folds import FOLDS, Folds, deal
from training.evaluation.logits import MAX_LOGIT, log_odds
from training.export.bundle import export_run
from training.models.committee import load_committee
from training.models.distillation_set import read_distillation_set, write_distillation_set
from training.models.learner import predict
from training.models.strangers import FILE, Strangers
from training.models.student import SIDE, Network, Student, StudentSettings, distil, load_student, tune
from training.runs import history, outcome

SMALL = StudentSettings(width=4, epochs=2, fold_epochs=1, batch_size=32, average_decay=0.5)
VIEWS = 96


@pytest.fixture(scope="module", autouse=True)
def _tiny_teacher() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.models.member.InceptionResnetV1", TinyNetwork)
        yield


@pytest.fixture(scope="module")
def drawn_from(everybody: list[LabelledCrop], pool: list[Crop]) -> tuple[list[Crop], Folds]:
    """What views are drawn of, as ``training distillation-set`` has it: only MRL's labels count."""
    known = [crop if crop.collection == MRL else crop.unlabelled() for crop in everybody]
    return [*known, *pool], np.concatenate([deal(everybody), deal(pool)])


@pytest.fixture(scope="module")
def teacher(committee: Path, everybody: list[LabelledCrop], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("teacher")
    return export_run(
        committee,
        everybody,
        folder / "models",
        name="teacher",
        version="1",
        results=folder / "results",
        output=folder / "strangers.npz",
    )


@pytest.fixture(scope="module")
def distillation_set(
    drawn_from: tuple[list[Crop], Folds], teacher: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("distillation_set")
    write_distillation_set(*drawn_from, teacher, output, side=SIDE, views_drawn=VIEWS, shares=SHARES, seed=0)
    return output


@pytest.fixture(scope="module")
def run(
    distillation_set: Path,
    everybody: list[LabelledCrop],
    drawn_from: tuple[list[Crop], Folds],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    output = tmp_path_factory.mktemp("run") / "student"
    distil(distillation_set, everybody, sources(drawn_from[0]), SMALL, output)
    return output


class TestDistillationSet:
    def test_holds_views_of_known_folds_and_labels(
        self, distillation_set: Path, drawn_from: tuple[list[Crop], Folds]
    ) -> None:
        views = read_distillation_set(distillation_set)
        assert views.crops.shape == (VIEWS, SIDE, SIDE)
        assert views.crops.dtype == np.uint8
        assert views.logits.shape == (VIEWS, FOLDS)
        assert np.abs(views.logits).max() <= MAX_LOGIT
        crops, folds = drawn_from
        pairs = {(fold, str(crop.label)) for crop, fold in zip(crops, folds.tolist(), strict=True)}
        words = ["None" if np.isnan(label) else str(int(label)) for label in views.labels]
        assert set(zip(views.folds.tolist(), words, strict=True)) <= pairs
        assert set(words) == {"None", "0", "1"}

    def test_holds_what_the_members_say_of_the_very_views(
        self, drawn_from: tuple[list[Crop], Folds], committee: Path, teacher: Bundle, tmp_path: Path
    ) -> None:
        write_distillation_set(*drawn_from, teacher, tmp_path, side=MEMBER_SIDE, views_drawn=20, shares=SHARES, seed=2)
        views = read_distillation_set(tmp_path)
        with torch.inference_mode():
            said = load_committee(committee).member_logits(torch.from_numpy(views.crops))
        np.testing.assert_allclose(views.logits, said.T, atol=0.02)  # what ships has weights of half precision

    def test_the_part_that_a_fold_is_judged_by_is_left_out(self, distillation_set: Path) -> None:
        views = read_distillation_set(distillation_set)
        parts = [views.without(fold) for fold in range(FOLDS)]
        assert sum(len(part.crops) for part in parts) == (FOLDS - 1) * VIEWS
        for fold, part in enumerate(parts):
            assert fold not in part.folds
            np.testing.assert_array_equal(part.logits, views.logits[views.folds != fold, fold, None])
            np.testing.assert_array_equal(part.crops, views.crops[views.folds != fold])

    def test_continues_after_the_last_whole_file(
        self,
        drawn_from: tuple[list[Crop], Folds],
        teacher: Bundle,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("training.models.distillation_set.PART", 16)
        asked = partial(write_distillation_set, *drawn_from, teacher, side=SIDE, views_drawn=40, shares=SHARES, seed=1)
        asked(tmp_path / "whole")
        asked(tmp_path / "killed")
        before = (tmp_path / "killed" / "0000.npz").stat().st_mtime_ns
        (tmp_path / "killed" / "0001.npz").unlink()
        asked(tmp_path / "killed")
        whole, killed = (read_distillation_set(tmp_path / name) for name in ("whole", "killed"))
        assert len(whole.crops) == 40
        np.testing.assert_array_equal(whole.crops, killed.crops)
        np.testing.assert_array_equal(whole.folds, killed.folds)
        assert (tmp_path / "killed" / "0000.npz").stat().st_mtime_ns == before

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="training distillation-set"):
            read_distillation_set(tmp_path)

    def test_of_no_committee(self, drawn_from: tuple[list[Crop], Folds], tmp_path: Path) -> None:
        student = load_bundle(models_dir() / "final_best_lite")
        with pytest.raises(DataError, match="final_best_lite holds no committee"):
            write_distillation_set(*drawn_from, student, tmp_path, side=SIDE, views_drawn=8, shares=SHARES, seed=0)

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
    def test_learns(self, run: Path, teacher: Bundle) -> None:
        epochs = history(run)
        assert len(epochs) == SMALL.epochs
        assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
        recipe = json.loads((run / "run.json").read_text())
        assert recipe["teacher"] == {"name": "teacher", "sha256": teacher.manifest.sha256}
        assert {source["name"] for source in recipe["sources"]} == set(SHARES)

    def test_strangers_are_scored_by_students_of_the_other_folds(
        self, run: Path, everybody: list[LabelledCrop]
    ) -> None:
        said = Strangers.read(run / FILE, everybody)
        for fold in range(FOLDS):
            assert len(history(run / f"fold_{fold}")) == SMALL.fold_epochs
            own = np.flatnonzero(said.folds == fold)
            student = load_student(outcome(run / f"fold_{fold}"))
            scores = predict(student, [everybody[place] for place in own])
            np.testing.assert_allclose(said.scores[own], scores, atol=1e-6)

    def test_loads_as_it_ships(self, run: Path) -> None:
        checkpoint = run / "checkpoints" / "last.ckpt"
        crops = torch.randint(0, 256, (8, SIDE, SIDE), dtype=torch.uint8)
        trained = Student.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True).eval()
        shipped = load_student(checkpoint)
        torch.testing.assert_close(shipped.p_open(crops), trained.p_open(crops), atol=1e-4, rtol=1e-4)
        logits = shipped(crops)
        shipped.apply_temperature(2)
        torch.testing.assert_close(shipped(crops), logits / 2)

    def test_views_of_another_size(
        self, drawn_from: tuple[list[Crop], Folds], everybody: list[LabelledCrop], teacher: Bundle, tmp_path: Path
    ) -> None:
        views = tmp_path / "distillation_set"
        write_distillation_set(*drawn_from, teacher, views, side=16, views_drawn=32, shares=SHARES, seed=0)
        with pytest.raises(DataError, match="32×32"):
            distil(views, everybody, [], SMALL, tmp_path / "run")


def test_search_continues(distillation_set: Path, everybody: list[LabelledCrop], tmp_path: Path) -> None:
    short = dataclasses.replace(SMALL, epochs=1)
    table = tmp_path / "reports" / "search.csv"
    tune(distillation_set, everybody, short, tmp_path, table, views=64, trials=1)
    best = tune(distillation_set, everybody, short, tmp_path, table, views=64, trials=2)
    rows = table.read_text().splitlines()
    assert len(rows) == 1 + 2
    assert 0 <= best["eer"] <= 1
    assert 1e-3 <= best["learning_rate"] <= 1e-2
