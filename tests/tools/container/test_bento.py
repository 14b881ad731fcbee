from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eyestate.mtcnn import FaceDetector
from tests.bundles import write_bundle
from tools.harness.servers import PROJECT, Probe, running_server

BENTOML = str(Path(sys.executable).parent / "bentoml")
OPEN = (PROJECT / "examples" / "open.jpg").read_bytes()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"BENTOML_HOME": str(tmp_path_factory.mktemp("bentoml")), "BENTOML_DO_NOT_TRACK": "True"}


@pytest.fixture(scope="module")
def bento(home: dict[str, str]) -> str:
    """The tag of a bento that was built here."""
    command = [BENTOML, "build", "--output", "tag"]
    tag = subprocess.check_output(command, cwd=PROJECT, env=os.environ | home, text=True, timeout=120)
    return tag.strip().removeprefix("__tag__:")


@pytest.fixture(scope="module")
def source(home: dict[str, str], bento: str) -> Path:
    return Path(home["BENTOML_HOME"], "bentos", *bento.split(":"), "src")


def test_bento_contains_only_what_serving_needs(source: Path) -> None:
    top = {path.name for path in source.iterdir()}
    assert top == {"bentofile.yaml", "eyestate", "models", "requirements", "service.py"}
    assert FaceDetector(source / "models" / "mtcnn").description.licence == "MIT"


@pytest.mark.parametrize("folder", ["eyestate", "models"])
def test_bento_contains_what_the_wheel_and_the_image_do(source: Path, folder: str) -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder]
    tracked = subprocess.check_output(command, cwd=PROJECT, text=True).split()
    assert sorted(files(source, folder)) == sorted(path for path in tracked if (PROJECT / path).exists())


def files(root: Path, folder: str) -> list[str]:
    return [path.relative_to(root).as_posix() for path in (root / folder).rglob("*") if path.is_file()]


def test_bento_serves_outside_the_repository(tmp_path: Path, home: dict[str, str], bento: str, source: Path) -> None:
    model = write_bundle(source / "models")  # found by its name only if the bento's own code looks for it
    command = (BENTOML, "serve", bento, "--working-dir", str(tmp_path), "--host", "127.0.0.1", "--port", "{port}")
    settings = home | {"PYTHONPATH": "", "EYESTATE_MODEL": model.name, "EYESTATE_DRAIN": "0"}
    with running_server(command, settings, Probe("/readyz"), tmp_path / "log") as server:
        assert b'"name":"brightness"' in server.fetch(Probe("/v1/score", OPEN, "image/jpeg"))
        assert server.terminate()
