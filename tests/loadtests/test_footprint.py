"""Footprint of one pod, measured on the real service with the default model, smaller images and a smaller batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from eyestate.bundle import DEFAULT_MODEL
from loadtests import footprint


def test_the_largest_bodies_take_most_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "LARGE_SIDE", 1024)
    monkeypatch.setattr(footprint, "PACKED_SIDE", 1024)  # few crops, but bodies as large
    monkeypatch.setattr(footprint, "BATCH", 256)
    options = ["--device", "cpu", "--seconds", "1", "--output", str(tmp_path)]
    result = CliRunner().invoke(footprint.main, options)
    assert result.exit_code == 0, result.output
    rows = {
        row["load"].partition(",")[0]: row
        for row in json.loads((tmp_path / f"footprint-{DEFAULT_MODEL}.json").read_text())["rows"]
    }
    idle, bodies = rows["idle"], rows["bodies of 64 MiB"]
    assert idle["memory"] > 100
    assert bodies["memory"] > idle["memory"] + 64
    assert 0 < bodies["tmp"] < 64
    assert rows["single crops"]["statuses"].keys() == {"200"}
    assert 50 < rows["`eyestate batch`"]["memory"] < bodies["memory"]
    assert "bodies of 64 MiB" in (tmp_path / f"footprint-{DEFAULT_MODEL}.md").read_text()
