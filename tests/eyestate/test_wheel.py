"""The package as `pip install` puts it down, away from the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
EXAMPLES = [str(PROJECT / "examples" / f"{state}.jpg") for state in ("closed", "open")]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(PROJECT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def run(installed: Path, cwd: Path, *arguments: str, models: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EYESTATE_")}
    environment |= {"PYTHONPATH": str(installed)} | ({"EYESTATE_MODELS": str(models)} if models else {})
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def score(installed: Path, cwd: Path, models: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = "from eyestate.cli import main; main()"
    return run(installed, cwd, "-c", code, "score", *EXAMPLES, "--format", "csv", models=models)


def test_it_says_where_to_get_the_model(installed: Path, tmp_path: Path) -> None:
    done = score(installed, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: there is no model 'cascade': {installed / 'models'} holds no models.")
    assert "get the folder models/ of eyestate" in done.stderr
    assert "set EYESTATE_MODELS" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_scores_with_the_models_beside_it_or_elsewhere(installed: Path, tmp_path: Path) -> None:
    done = score(installed, tmp_path, models=PROJECT / "models")
    assert (done.returncode, done.stdout.count("\n")) == (0, 3), done.stderr
    (installed / "models").symlink_to(PROJECT / "models")
    try:
        assert score(installed, tmp_path).stdout == done.stdout
    finally:
        (installed / "models").unlink()


def test_it_is_the_wheel_that_was_tested(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "-c", "import eyestate; print(eyestate.__file__)")
    assert Path(done.stdout.strip()) == installed / "eyestate" / "__init__.py"
