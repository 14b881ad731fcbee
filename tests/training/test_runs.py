from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from training import runs
from training.data.datasets import DataError
from training.runs import CURVES, claim, git_revision, history, read_recipe, record_time, write_history

REVISION = r"[0-9a-f]{12,}(-dirty)?|unknown"


class TestRecipe:
    def test_of_a_finished_run(self, run: Path) -> None:
        recipe = read_recipe(run)
        assert recipe["settings"]["epochs"] == 2
        assert re.fullmatch(REVISION, recipe["git_revision"])

    def test_names_the_code_it_began_with(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for revision in ("0123456789ab", "ba9876543210-dirty"):  # as where somebody commits while the run goes on
            monkeypatch.setattr(runs, "git_revision", lambda revision=revision: revision)
            claim(tmp_path, {"seed": 0})
        assert json.loads((tmp_path / runs.RECIPE).read_text()) == {"seed": 0, "git_revision": "0123456789ab"}

    def test_of_a_run_that_never_was(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds no training run"):
            read_recipe(tmp_path)

    def test_same_recipe_continues_another_is_moved_aside(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        claim(run, {"seed": 0})
        (run / "epoch").touch()
        claim(run, {"seed": 0})
        assert (run / "epoch").exists()
        assert capsys.readouterr().err == ""
        claim(run, {"seed": 1})
        assert [path.name for path in run.iterdir()] == ["run.json"]
        assert (tmp_path / "run.previous" / "epoch").exists()
        assert "other settings or data" in capsys.readouterr().err


def test_git_revision() -> None:
    assert re.fullmatch(REVISION, git_revision())


def test_record_time(tmp_path: Path) -> None:
    for stage, seconds in (("features", 3.14), ("cluster", 20), ("features", 2.72)):
        record_time(tmp_path / "runs" / "timings.json", stage, seconds)
    assert json.loads((tmp_path / "runs" / "timings.json").read_text()) == {"features": 2.7, "cluster": 20}


class TestHistory:
    def test_has_every_epoch(self, run: Path) -> None:
        assert [row["epoch"] for row in history(run)] == [0, 1]
        assert all(set(row) == {"epoch", *CURVES} for row in history(run))

    def test_of_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no finished epoch"):
            history(tmp_path)

    def test_written_for_people(self, tmp_path: Path) -> None:
        epochs = [{"epoch": 0, "train_loss": 0.8, "val_loss": 0.7, "train_eer": 0.4, "val_eer": 0.3}]
        write_history(epochs, tmp_path / "reports" / "history.csv")
        assert (tmp_path / "reports" / "history.csv").read_text().splitlines() == [
            "epoch,train_loss,val_loss,train_eer,val_eer",
            "1,0.80000,0.70000,0.40000,0.30000",
        ]
