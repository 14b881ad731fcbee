"""The commands, from crops to a bundle that scores, as the engineer who retrains types them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import eyestate
from tests.training.conftest import CROPS_PER_SUBJECT
from training.__main__ import COMMANDS, main
from training.data.split import SPLIT_FOLDS
from training.models.classifier import Settings


def training(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="python -m training")


def test_help_imports_no_command() -> None:
    """PyTorch and the others take seconds to import."""
    script = "import sys; from training.__main__ import main; main(['--help'], standalone_mode=False); "
    command = [sys.executable, "-c", f"{script} print('torch' in sys.modules)"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert shown.endswith("False\n")


def test_as_a_module() -> None:
    command = [sys.executable, "-m", "training", "--help"]
    assert "Usage: python -m training" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_unknown_command() -> None:
    result = training("nonesuch")
    assert result.exit_code == 2
    assert "No such command 'nonesuch'" in result.stderr


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_help(verb: str) -> None:
    result = training(verb, "--help")
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    assert command.get_short_help_str(limit=1000) == COMMANDS[verb][1]
    assert result.exit_code == 0
    assert f"Usage: python -m training {verb}" in result.stdout


def test_missing_data_are_named(tmp_path: Path) -> None:
    result = training("describe", "--mrl", tmp_path / "none.zip")
    assert result.exit_code == 1
    assert "none.zip does not exist" in result.stderr
    assert "Traceback" not in result.stderr


def test_describe(mrl: Path, tmp_path: Path) -> None:
    (mrl / "broken.jpg").write_bytes(b"broken")
    try:
        result = training("describe", "--mrl", mrl, "--output", tmp_path)
    finally:
        (mrl / "broken.jpg").unlink()
    assert result.exit_code == 0, result.stderr
    assert f"{SPLIT_FOLDS * CROPS_PER_SUBJECT} crops, 1 files refused" in result.stdout
    assert "RealSense" in result.stdout
    assert (tmp_path / "counts.png").stat().st_size > 10_000
    assert (tmp_path / "refused.txt").read_text().startswith("broken.jpg\t")


def test_from_crops_to_a_bundle_that_scores(mrl: Path, tiny: Settings, tmp_path: Path) -> None:
    run, models = (tmp_path / name for name in ("run", "models"))
    settings: list[str | Path] = [
        "--backbone",
        tiny.backbone,
        "--input-side",
        str(tiny.input_side),
        "--epochs",
        "1",
        "--crops-per-epoch",
        "64",
    ]
    trained = training("train", "--mrl", mrl, "--output", run, *settings)
    assert trained.exit_code == 0, trained.output
    nobody: list[str | Path] = ["--human-labels", tmp_path / "none.csv", "--crops", tmp_path / "none.zip"]
    exported = training("export", "--mrl", mrl, "--run", run, "--models", models, "--name", "kaggle_model", *nobody)
    assert exported.exit_code == 0, exported.output
    assert "EER, MRL test subjects" in exported.stdout

    scorer = eyestate.load(models / "kaggle_model")
    assert scorer.manifest.reference is None
    scores = scorer.score(sorted(mrl.rglob("*.jpg"))[:4])
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (run / "curves.png").stat().st_size > 10_000
    history = (run / "history.csv").read_text().splitlines()
    assert history[0] == "epoch,train_loss,val_loss,train_eer,val_eer"
    assert len(history) == 2


def test_export_before_training(mrl: Path, tmp_path: Path) -> None:
    result = training("export", "--mrl", mrl, "--run", tmp_path, "--models", tmp_path)
    assert result.exit_code == 1
    assert "no trained classifier" in result.stderr
