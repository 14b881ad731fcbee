"""The contracts of import-linter in pyproject.toml: they hold, and they notice what would break them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGES = ("eyestate", "training", "tools", "loadtests")


def lint_imports(project: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=120)


def test_the_contracts_are_kept() -> None:
    result = lint_imports(PROJECT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("eyestate/images/decoding.py", "import eyestate.server.app"),
        ("eyestate/images/decoding.py", "import training.runs"),
        ("eyestate/images/decoding.py", "import torch"),
        ("eyestate/images/decoding.py", "import starlette"),
        ("eyestate/server/metrics.py", "import eyestate.server.app"),
        ("training/runs.py", "import eyestate.server.app"),
        ("training/runs.py", "import tools.harness.servers"),
        ("tools/harness/servers.py", "import loadtests.faces"),
    ],
)
def test_a_forbidden_import_is_noticed(tmp_path: Path, module: str, statement: str) -> None:
    for package in PACKAGES:
        shutil.copytree(PROJECT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{statement}\n")
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    imported = statement.removeprefix("import ")
    assert f"{module.removesuffix('.py').replace('/', '.')} -> {imported}" in result.stdout
