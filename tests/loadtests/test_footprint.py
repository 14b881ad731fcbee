"""What one pod takes, measured on the real service with the small model."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from loadtests.footprint import main


def test_the_largest_bodies_take_most_memory(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--model", "small", "--seconds", "2", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rows = {
        row["load"].partition(",")[0]: row
        for row in json.loads((tmp_path / "footprint-small.json").read_text())["rows"]
    }
    nothing, bodies = rows["nothing"], rows["bodies of 64 MiB"]
    assert nothing["memory"] > 100
    assert bodies["memory"] > nothing["memory"] + 64
    assert 0 < bodies["tmp"] < 64
    assert rows["single crops"]["statuses"].keys() == {"200"}
    assert 50 < rows["`eyestate batch`"]["memory"] < bodies["memory"]
    assert "bodies of 64 MiB" in (tmp_path / "footprint-small.md").read_text()
