from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.container.base import pinned
from tools.container.engine import PROJECT, ImageError, builder

RECIPE = (PROJECT / "Dockerfile").read_text()
CONTEXT = {
    "LICENSE",
    "README.md",
    "eyestate",
    "tools/container/slim.py",
    "models",
    "pyproject.toml",
    "requirements/bootstrap.txt",
    "requirements/serve-gpu.txt",
    "requirements/serve.txt",
    "service.py",
}


def instructions(name: str) -> list[str]:
    """What follows the instruction wherever it stands, continued lines joined."""
    return re.findall(rf"^{name} (.+)$", RECIPE.replace("\\\n", " "), re.MULTILINE)


def test_hadolint_reports_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, "Dockerfile"], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_base_is_pinned_by_digest() -> None:
    base = pinned()
    assert re.fullmatch(r"docker\.io/library/python:3\.11\.\d+-slim-bookworm", base.name)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", base.digest)
    stages = {line.split(" AS ")[1] for line in instructions("FROM")}
    assert {line.split()[0] for line in instructions("FROM")} <= {"${BASE}"} | stages
    assert ":latest" not in RECIPE


def test_wheels_are_installed_with_hashes() -> None:
    installs = [part for run in instructions("RUN") for part in run.split("&&") if "pip install" in part]
    assert len(installs) == 4
    assert [part for part in installs if "--require-hashes" not in part and "--offline" not in part] == []


def test_user_is_numeric_and_entrypoint_receives_signals() -> None:
    assert instructions("USER") == ["65532:65532"]
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["eyestate", "serve"]
    assert json.loads(instructions("HEALTHCHECK")[0].partition("CMD ")[2])[0] == "python"


def test_build_context_contains_only_what_serving_needs(tmp_path: Path) -> None:
    try:
        engine = builder()
    except ImageError as error:
        pytest.skip(error.message)
    recipe, copied = tmp_path / "Dockerfile", tmp_path / "context"
    recipe.write_text("FROM scratch\nCOPY . /\n")
    engine.build("--file", str(recipe), "--output", f"type=local,dest={copied}")
    files = {path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()}
    assert {path for path in files if not any(path == one or path.startswith(f"{one}/") for one in CONTEXT)} == set()
    assert {path for path in CONTEXT if not (copied / path).exists()} == set()
    assert {path for path in files if "__pycache__" in path or "/." in path} == set()
