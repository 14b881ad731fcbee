"""The commands, from crops to a bundle that scores, as the engineer who retrains types them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import eyestate
from tests.training.conftest import COLLECTION, CROPS_PER_SUBJECT, SHARES, write_people
from training.__main__ import COMMANDS, main
from training.data.datasets import Crop
from training.data.folds import FOLDS
from training.data.labels import read_beliefs
from training.data.split import SPLIT_FOLDS
from training.models.classifier import Settings
from training.models.member import MemberSettings


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


def test_train_draws_its_curves(mrl: Path, tiny: Settings, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings: list[str | Path] = ["--backbone", tiny.backbone, "--input-side", str(tiny.input_side), "--epochs", "1"]
    trained = training("train", "--mrl", mrl, "--output", run, *settings, "--crops-per-epoch", "64")
    assert trained.exit_code == 0, trained.output
    assert (run / "curves.png").stat().st_size > 10_000
    history = (run / "history.csv").read_text().splitlines()
    assert history[0] == "epoch,train_loss,val_loss,train_eer,val_eer"
    assert len(history) == 2


@pytest.mark.usefixtures("tiny_members")
def test_from_crops_to_a_bundle_that_scores(
    mrl: Path, pool: list[Crop], member_settings: MemberSettings, tmp_path: Path
) -> None:
    run, models, crops = (tmp_path / name for name in ("run", "models", "crops"))
    crops.mkdir()
    for crop in pool:
        (crops / crop.name).write_bytes(crop.data)
    data: list[str | Path] = ["--mrl", mrl, "--crops", crops]
    data += ["--people", write_people(tmp_path / "people", [COLLECTION], FOLDS + 1)]
    settings: list[str | Path] = ["--backbone", member_settings.backbone, "--epochs", "1", "--crops-per-epoch", "16"]
    settings += ["--batch-size", "16", "--device", "cpu"]
    shares = [word for name, share in SHARES.items() for word in ("--share", name, str(share))]
    trained = training("committee", *data, *settings, *shares, "--budget", "3", "--output", run)
    assert trained.exit_code == 0, trained.output
    assert "3 queued" in trained.stdout
    assert set(read_beliefs(run / "beliefs.csv")) >= set(read_beliefs(run / "queue.csv"))

    nobody: list[str | Path] = ["--human-labels", tmp_path / "none.csv", "--held-out-labels", tmp_path / "none.csv"]
    reports = tmp_path / "reports"
    exported = training(
        "export",
        *data,
        *nobody,
        "--run",
        run,
        "--models",
        models,
        "--reports",
        reports,
        "--name",
        "five",
        "--runs",
        tmp_path,
    )
    assert exported.exit_code == 0, exported.output
    assert "EER, MRL, people never seen" in exported.stdout
    assert (reports / "five" / "evaluation.json").exists()
    scorer = eyestate.load(models / "five")
    scores = scorer.score(sorted(mrl.rglob("*.jpg"))[:4])
    assert ((scores >= 0) & (scores <= 1)).all()


def test_export_before_training(mrl: Path, tmp_path: Path) -> None:
    people = write_people(tmp_path / "people", [COLLECTION], 1)
    result = training("export", "--mrl", mrl, "--people", people, "--run", tmp_path, "--models", tmp_path)
    assert result.exit_code == 1
    assert "`python -m training committee` makes it" in result.stderr


def test_a_collection_without_a_share(mrl: Path, pool: list[Crop], tmp_path: Path) -> None:
    (tmp_path / "crops").mkdir()
    for crop in pool:
        (tmp_path / "crops" / crop.name).write_bytes(crop.data)
    people = write_people(tmp_path / "people", [COLLECTION], FOLDS)
    data: list[str | Path] = ["--mrl", mrl, "--people", people, "--crops", tmp_path / "crops"]
    result = training("committee", *data, "--share", "MRL Eye Dataset", "1", "--output", tmp_path / "run")
    assert result.exit_code == 1
    assert "no share of the draws is given for colour" in result.stderr
