"""The commands, from crops to a bundle that scores, as the engineer who retrains types them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

import eyestate
from training.data import SPLIT_FOLDS
from tests.training.conftest import CROPS_PER_SUBJECT


def training(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=240)


@pytest.mark.parametrize("verb", [[], ["describe"], ["input-size"], ["train"], ["export"], ["generate"]])
def test_help(verb: list[str], tmp_path: Path) -> None:
    result = training(*verb, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert "Usage: python -m training" in result.stdout


def test_missing_data_are_named(tmp_path: Path) -> None:
    result = training("describe", "--mrl", tmp_path / "none.zip", cwd=tmp_path)
    assert result.returncode == 1
    assert "none.zip does not exist" in result.stderr
    assert "Traceback" not in result.stderr


def test_describe(mrl: Path, tmp_path: Path) -> None:
    (mrl / "broken.jpg").write_bytes(b"broken")
    try:
        result = training("describe", "--mrl", mrl, cwd=tmp_path)
    finally:
        (mrl / "broken.jpg").unlink()
    assert result.returncode == 0, result.stderr
    assert f"{SPLIT_FOLDS * CROPS_PER_SUBJECT} crops, 1 files refused" in result.stdout
    assert "RealSense" in result.stdout
    assert (tmp_path / "runs" / "describe" / "counts.png").stat().st_size > 10_000
    assert (tmp_path / "runs" / "describe" / "refused.txt").read_text().startswith("broken.jpg\t")
