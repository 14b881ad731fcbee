from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.data import DataError
from training.runs import CURVES, claim, git_revision, history, read_recipe, write_history


class TestRecipe:
    def test_of_a_finished_run(self, run: Path) -> None:
        recipe = read_recipe(run)
        assert recipe["settings"]["epochs"] == 2
        assert recipe["git_revision"] == git_revision()

    def test_of_a_run_that_never_was(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no trained classifier"):
            read_recipe(tmp_path)

    def test_same_recipe_may_continue_another_may_not(self, tmp_path: Path) -> None:
        for _ in range(2):
            claim(tmp_path / "run", {"seed": 0})
        with pytest.raises(DataError, match="other settings or data"):
            claim(tmp_path / "run", {"seed": 1})
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_git_revision() -> None:
    assert re.fullmatch(r"[0-9a-f]{12,}(-dirty)?|unknown", git_revision())


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
