from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.bundles import write_bundle
from tests.photos import EYES, head, shut

PROJECT = Path(__file__).parents[2]


def eyestate(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    command = [Path(sys.executable).with_name("eyestate"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Scores are mean brightness; closed to 0.25, open from 0.75."""
    return write_bundle(tmp_path / "models")


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """A folder with three crops, one of them deeper down, and a file that is no image."""
    folder = tmp_path / "crops"
    (folder / "sub").mkdir(parents=True)
    for name, value in {"b.png": 255, "a.jpg": 0, "sub/c.BMP": 128}.items():
        Image.fromarray(np.full((24, 24), value, np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_csv(model: Path, crops: Path) -> None:
    result = eyestate("score", crops, "--model", model, "--format", "csv")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "path,score,state"
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [Path(row["path"]) for row in rows] == [crops / "a.jpg", crops / "b.png", crops / "sub" / "c.BMP"]
    assert [row["state"] for row in rows] == ["closed", "open", "uncertain"]
    np.testing.assert_allclose([float(row["score"]) for row in rows], [0, 1, 128 / 255], atol=0.005)


def test_jsonl(model: Path, crops: Path) -> None:
    result = eyestate("score", crops / "b.png", "--model", model, "--format", "jsonl")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"path": str(crops / "b.png"), "score": 1.0, "state": "open"}
    ]


def test_table_for_people(model: Path, crops: Path) -> None:
    result = eyestate("score", crops / "b.png", "--model", model)
    assert result.returncode == 0
    assert "1.0000" in result.stdout
    assert "open" in result.stdout


def test_table_in_a_pipe_cuts_no_name(model: Path, crops: Path) -> None:
    names = [f"{'long-' * 40}{number}.png" for number in range(2)]
    for name in names:
        (crops / name).write_bytes((crops / "b.png").read_bytes())
    result = eyestate("score", *(crops / name for name in names), "--model", model)
    assert all(name in result.stdout for name in names)


def test_what_a_folder_holds_besides_is_told(model: Path, crops: Path) -> None:
    (crops / "._b.png").write_bytes(b"AppleDouble")
    (crops / "d.jfif").write_bytes((crops / "a.jpg").read_bytes())
    result = eyestate("score", crops, "--model", model, "--format", "csv")
    assert (result.returncode, result.stdout.count("\n")) == (0, 1 + 4)
    assert "left out: hidden or of the system: 1; other files: 1 (.txt)" in result.stderr


def test_unreadable_files_are_named_and_do_not_stop_the_others(model: Path, crops: Path) -> None:
    (crops / "aa.png").write_bytes(b"broken")
    result = eyestate("score", crops, crops / "notes.txt", crops / "none.jpg", "--model", model, "--format", "csv")
    assert result.returncode == 1
    assert len(result.stdout.splitlines()) == 1 + 3
    for name in ("aa.png", "notes.txt", "none.jpg", "3 of 6 files"):
        assert name in result.stderr
    assert "Traceback" not in result.stderr


def test_faces(model: Path, tmp_path: Path) -> None:
    photo, other = PROJECT / "docs" / "images" / "face.jpg", tmp_path / "grey.png"
    Image.fromarray(np.full((64, 64), 99, np.uint8)).save(other)
    result = eyestate("faces", photo, other, "--model", model, "--format", "csv")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "path,face,eye,left,top,width,height,score,state"
    right, left = csv.DictReader(io.StringIO(result.stdout))
    assert (right["eye"], left["eye"]) == ("right", "left")
    assert right["face"] == left["face"] == "1"
    pixels = np.asarray(Image.open(photo).convert("L"))
    for eye in (right, left):
        x, y, side = (int(eye[name]) for name in ("left", "top", "width"))
        assert pixels[y : y + side, x : x + side].mean() / 255 == pytest.approx(float(eye["score"]), abs=0.02)
    assert "grey.png: no face" in result.stderr


def test_best(tmp_path: Path) -> None:
    photos = [tmp_path / name for name in ("blinking.png", "damaged.png", "good.png")]
    shut(head(), *EYES).save(photos[0])
    photos[1].write_bytes(b"no photo")
    head().save(photos[2])
    result = eyestate("best", *photos, "--format", "csv")
    assert result.returncode == 1
    header, *rows = csv.reader(result.stdout.splitlines())
    assert header == ["rank", "path", "open", "closed", "cannot_tell", "sharpness", "reason"]
    assert [row[:5] + row[6:] for row in rows] == [
        ["1", str(photos[2]), "1", "0", "0", "all 1 with open eyes"],
        ["2", str(photos[0]), "0", "1", "0", "0 of 1 with open eyes, 1 blinking"],
    ]
    assert "1 of 3 files could not be read" in result.stderr


def test_faces_of_unreadable_photos(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    result = eyestate("faces", tmp_path / "a.jpg", "--model", model)
    assert result.returncode == 1
    assert "1 of 1 files could not be read" in result.stderr
    assert "Traceback" not in result.stderr


def test_names_with_any_bytes(model: Path, crops: Path) -> None:
    odd = crops / 'x,"\n [red] \udcff.png'
    Image.fromarray(np.zeros((24, 24), np.uint8)).save(crops / "z.png")
    (crops / "z.png").rename(odd)
    arguments: list[str | Path] = ["score", odd, "--model", model, "--format", "csv"]
    command = [Path(sys.executable).with_name("eyestate"), *arguments]
    output = subprocess.run(command, capture_output=True, check=True).stdout.decode(errors="surrogateescape")
    assert next(csv.DictReader(io.StringIO(output, newline="")))["path"] == str(odd)


def test_stdout_that_takes_nothing(model: Path, crops: Path) -> None:
    command = f"{Path(sys.executable).with_name('eyestate')} score {crops} --model {model} --format csv"
    for target, message in {">/dev/full": "cannot write: No space left on device", ">&-": "stdout is closed"}.items():
        done = subprocess.run(f"{command} {target}", shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_nothing_to_score(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = eyestate("score", tmp_path / "empty", "--model", model)
    assert result.returncode == 1
    assert "no image files" in result.stderr


def test_no_such_model(crops: Path) -> None:
    result = eyestate("score", crops, "--model", "nonesuch")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: there is no model 'nonesuch'")
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["score", "--help"], []])
def test_help_teaches(arguments: list[str]) -> None:
    result = eyestate(*arguments)
    text = result.stdout + result.stderr
    assert "eyestate score" in text


def test_version() -> None:
    assert eyestate("--version").stdout.startswith("eyestate")


def test_scoring_does_not_read_the_settings_of_the_service() -> None:
    environment = {**os.environ, "EYESTATE_WORKERS": "many", "EYESTATE_DEVICE": "cpu"}
    command = [str(Path(sys.executable).with_name("eyestate")), "score", str(PROJECT / "examples"), "--format", "csv"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("\n")) == (0, 3), done.stderr
    done = subprocess.run(
        command, env=environment | {"EYESTATE_DEVICE": "tpu"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "EYESTATE_DEVICE is 'tpu': choose one of auto, cpu" in done.stderr
    assert "Traceback" not in done.stderr
