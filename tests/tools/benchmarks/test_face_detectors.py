from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from tools.benchmarks import face_detectors


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yuface", None)
    result = CliRunner().invoke(face_detectors.main)
    assert result.exit_code == 1
    assert "YuNet is not installed: .venv/bin/uv pip install yuface" in result.output


def test_a_row_for_each_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_detectors, "yunet", lambda: lambda photo: 1)
    monkeypatch.setattr(face_detectors, "SIZES", (230, 512))
    monkeypatch.setattr(face_detectors, "TIMED", (230,))
    result = CliRunner().invoke(face_detectors.main)
    assert result.exit_code == 0, result.output
    ours, other = (line.split(" | ") for line in result.output.splitlines()[2:4])
    assert ours[:2] == ["| MTCNN, as it ships", "8 of 8"]
    assert int(ours[2].partition(" ")[0]) > 90
    assert ours[3] == "0"
    assert other[1:4] == ["8 of 8", "100 of 100", "105"]
