from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eyestate.cli import main
from tests.bundles import write_bundle
from tests.eyestate.video.clips import write_clip, write_sound


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("models"))


def video(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["video", *map(str, arguments)])


def test_a_folder_with_a_broken_video(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    write_clip(tmp_path / "in" / "sub" / "a.mp4", [n / 10 for n in range(5)])
    shutil.copy(tmp_path / "in" / "sub" / "a.mp4", tmp_path / "in" / "b.MP4")
    (tmp_path / "in" / "broken.mp4").write_bytes(b"no video at all")
    (tmp_path / "in" / "notes.txt").write_text("no video")
    result = video(tmp_path / "in", "--output", tmp_path / "out", "--model", model)
    assert result.exit_code == 1
    assert result.stdout.count("5 frames, 1 people") == 2
    assert "1 of 3 videos could not be read" in result.output
    assert (tmp_path / "out" / "sub" / "a.mp4" / "timeline.parquet").exists()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "clip.mp4 is empty"),
        ("garbage", "cannot be read as a video: Invalid data"),
        ("missing", "cannot be read as a video: No such file"),
        ("sound", "holds no video, only sound"),
    ],
)
def test_what_is_no_video_gets_a_line(kind: str, message: str, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    if kind == "sound":
        write_sound(path)
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else b"\x00" * 1000)
    result = video(path, "--output", tmp_path / "out", "--model", model)
    assert result.exit_code == 1
    assert message in result.output
    assert isinstance(result.exception, SystemExit)


def test_a_stream_that_nobody_sends(model: Path, tmp_path: Path) -> None:
    result = video("rtsp://127.0.0.1:9/none", "--output", tmp_path / "out", "--model", model)
    assert result.exit_code == 1
    assert "rtsp://127.0.0.1:9/none cannot be read as a video: Connection refused" in result.output


def test_a_stream_cannot_be_annotated(tmp_path: Path) -> None:
    result = video("rtsp://127.0.0.1:9/none", "--output", tmp_path, "--annotate")
    assert result.exit_code == 2
    assert "needs a file" in result.output


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['av'] = None; from eyestate.cli import main; main()"
    command = [sys.executable, "-c", code, "video", "clip.mp4", "--output", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 1
    assert "pip install 'eyestate[video]'" in result.stderr
    assert "Traceback" not in result.stderr
