"""The measurement on unlabelled crops, in miniature."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from eyestate.arrays import Pixels
from loadtests import pool
from tests.images import encoded
from tools.harness.crops import eye, noisy_eyes


def write_crops(folder: Path, *crops: Pixels) -> None:
    with zipfile.ZipFile(folder / "eyes-dataset.zip", "w") as archive:
        for place, crop in enumerate(crops):
            archive.writestr(f"crops/{place}.png", encoded(Image.fromarray(crop), "PNG"))


def test_the_cascade_is_compared_with_its_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESTATE_DATA", str(tmp_path))
    monkeypatch.setenv("EYESTATE_DEVICE", "cpu")
    write_crops(tmp_path, eye(), *noisy_eyes(15, eye().shape[0]))
    result = CliRunner().invoke(pool.main, ["--seconds", "1", "--rounds", "1", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (report,) = tmp_path.glob("pool-*.json")
    rows = {row["model"]: row for row in json.loads(report.read_text())["rows"]}
    assert set(rows) == set(pool.MODELS)
    assert rows["final_best"]["deferred"] == rows["final_best_lite"]["deferred"] == 0
    assert min(min(row["in_process"], row["over_http"]) for row in rows.values()) > 0
    assert "| cascade |" in report.with_suffix(".md").read_text()


def test_without_crops_of_one_size_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESTATE_DATA", str(tmp_path))
    result = CliRunner().invoke(pool.main, ["--output", str(tmp_path)])
    assert (result.exit_code, "eyes-dataset.zip" in result.output) == (1, True)
    write_crops(tmp_path, np.zeros((24, 24), np.uint8), np.zeros((32, 32), np.uint8))
    result = CliRunner().invoke(pool.main, ["--output", str(tmp_path)])
    assert result.exit_code == 1
    assert "of 2 sizes" in result.output
