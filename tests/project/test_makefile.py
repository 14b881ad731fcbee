"""What `make` does and says before anything is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


def make(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run make as a user's shell would, with a folder in front of the PATH."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    if path:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    return subprocess.run(
        ["make", "PYTHON=python3", "HOST=127.0.0.1", *arguments],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def script(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """An environment that make takes for complete, with an eyestate that only prints its arguments."""
    environment = tmp_path / "venv"
    script(environment / "bin" / "python", f'exec {sys.executable} "$@"')
    script(environment / "bin" / "eyestate", 'echo "eyestate $*"')
    for stamp in (".uv", ".serve"):
        (environment / stamp).touch()
    return environment


def test_help_lists_every_target() -> None:
    text = (PROJECT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)", text, re.MULTILINE)
    listed = [line.split()[0] for line in make("help").stdout.splitlines()]
    assert sorted(listed) == sorted(phony.replace("\\\n", " ").split())


@pytest.mark.parametrize("version", ["2, 7, 18", "3, 10, 13", "3, 14, 0"])
def test_an_unsupported_python_is_named_before_anything_is_created(tmp_path: Path, version: str) -> None:
    script(tmp_path / "python3", f'exec {sys.executable} -c "import sys; sys.version_info = ({version}); $2" "$3"')
    result = make("serve", f"VENV={tmp_path / 'venv'}", path=tmp_path)
    assert result.returncode != 0
    found = version.replace(", ", ".")
    wanted = f"eyestate needs Python 3.11 to 3.13; this is {found}: make PYTHON=python3.12 serve"
    assert result.stderr.splitlines()[0] == wanted
    assert not (tmp_path / "venv").exists()


def test_serve_starts_the_command_on_host_and_port(installed: Path) -> None:
    result = make("serve", "PORT=3999", f"VENV={installed}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "eyestate serve --host 127.0.0.1 --port 3999"


def test_a_test_process_that_dies_ends_the_run_and_is_named(tmp_path: Path) -> None:
    command = make("--dry-run", "unit").stdout.splitlines()[-1].split("/pytest ")[1].split()
    for number in range(12):
        (tmp_path / f"test_{number:02}.py").write_text("def test_1(): pass\ndef test_2(): pass\n")
    (tmp_path / "test_12.py").write_text("import os\ndef test_before(): pass\ndef test_it(): os.kill(os.getpid(), 9)\n")
    (tmp_path / "conftest.py").write_text((PROJECT / "tests" / "conftest.py").read_text())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:kmock", "-p", "no:cacheprovider", *command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 1
    assert "died of SIGKILL" in result.stdout
    assert "crashed while running 'test_12.py::test_it'" in result.stdout
