from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from loadtests.faces import main


def test_photos_are_measured(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--rounds", "1", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "faces.json").read_text())
    assert [row["faces"] for row in report["rows"]] == [1, 1, 1, 1, 64, 0]
    assert all(0 < row["of_it_decoding"] < row["core_milliseconds"] for row in report["rows"])
    assert "portrait, 2,048 × 2,048" in (tmp_path / "faces.md").read_text()
