from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from loadtests.streams import main


def test_streams_are_measured(tmp_path: Path) -> None:
    options = ["--idle", "5", "--active", "2", "--rate", "5", "--faces", "1", "--seconds", "1"]
    result = CliRunner().invoke(main, [*options, "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    crops, faces = json.loads((tmp_path / "streams.json").read_text())["rows"]
    assert (crops["mode"], crops["frames"], crops["streams"]) == ("crop", 10, 2)
    assert (faces["mode"], faces["frames"], faces["streams"]) == ("face", 5, 1)
    assert 0 < crops["p50_ms"] <= crops["p99_ms"]
    assert min(crops["memory_mib"]) > 100
    assert "Active streams" in (tmp_path / "streams.md").read_text()
