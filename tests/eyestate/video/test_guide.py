"""What the guide docs/camera.md shows is what a reader gets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.eyestate.video.clips import write_clip

GUIDE = Path(__file__).parents[3] / "docs" / "camera.md"


def test_the_loop_tells_of_closed_eyes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "drive.mp4", [n / 15 for n in range(40)], closed=(1.0, 2.2))
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, "camera.md", "exec"), {})
    assert re.fullmatch(r"1\.[67] s: the eyes of person 1 are closed\n", capsys.readouterr().out)
