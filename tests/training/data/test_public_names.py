"""What `training.data` offers to scripts and notebooks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import training.data

PROJECT = Path(__file__).parents[3]


def test_the_example_in_the_documentation_runs() -> None:
    page = (PROJECT / "docs" / "training.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    command = [sys.executable, "-c", f"{example}\nprint(len(dataset.crops), len(pool) + len(held_out))"]
    assert subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout == "2 2\n"


def test_every_name_is_there() -> None:
    assert {getattr(training.data, name).__name__ for name in training.data.__all__} == set(training.data.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nonesuch'"):
        training.data.nonesuch  # noqa: B018


def test_only_splitting_brings_scikit_learn() -> None:
    command = [sys.executable, "-c", "import sys; from training.data import Crop; print('sklearn' in sys.modules)"]
    assert subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout == "False\n"
