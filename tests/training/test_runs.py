from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.data import DataError
from training.runs import claim, git_revision, history, read_recipe, write_history

HEADER = "epoch,step,train_eer,train_loss,val_eer,val_loss\n"


def log(run: Path, version: int, rows: str) -> None:
    path = run / "csv" / f"version_{version}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text(HEADER + rows)


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
    def test_joins_the_logs_of_a_run_that_was_started_again(self, tmp_path: Path) -> None:
        log(tmp_path, 0, "0,9,,,0.3,0.7\n0,9,0.4,0.8,,\n1,19,,,0.2,0.6\n1,19,0.3,0.7,,\n2,29,,,0.9,0.9\n")
        log(tmp_path, 1, "1,19,,,0.1,0.5\n1,19,0.2,0.6,,\n")
        assert history(tmp_path) == [
            {"epoch": 0, "train_eer": 0.4, "train_loss": 0.8, "val_eer": 0.3, "val_loss": 0.7},
            {"epoch": 1, "train_eer": 0.2, "train_loss": 0.6, "val_eer": 0.1, "val_loss": 0.5},
        ]

    def test_logs_are_in_the_order_of_their_numbers(self, tmp_path: Path) -> None:
        for version in (10, 9):
            log(tmp_path, version, f"0,9,,,0.3,{version}\n0,9,0.4,0.8,,\n")
        assert history(tmp_path)[0]["val_loss"] == 10

    def test_of_no_run(self, tmp_path: Path) -> None:
        assert history(tmp_path) == []

    def test_written_for_people(self, tmp_path: Path) -> None:
        log(tmp_path, 0, "0,9,,,0.3,0.7\n0,9,0.4,0.8,,\n")
        write_history(history(tmp_path), tmp_path / "reports" / "history.csv")
        assert (tmp_path / "reports" / "history.csv").read_text().splitlines() == [
            "epoch,train_loss,val_loss,train_eer,val_eer",
            "1,0.80000,0.70000,0.40000,0.30000",
        ]
