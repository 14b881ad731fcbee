from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from tools.figures import is_current
from tools.video_speed import Cost, main, report


def test_following_costs_less_than_searching_each_frame(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--seconds", "1", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "video.json").read_text())
    followed, searched = found["rows"]
    assert followed["processor"] < searched["processor"] / 2
    assert is_current(found)
    text = report({"followed": Cost(8.0, 10.0)}, found["about"])
    assert "| followed | 8.0 | 250 | 10.0 |" in text
