"""The pinned environments agree with one another, so that what is tested is what is served."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[2] / "requirements"


def pins(name: str) -> set[tuple[str, str]]:
    """Packages and their versions."""
    return set(re.findall(r"^([\w.\[\]-]+)==(\S+)", (REQUIREMENTS / f"{name}.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize(("part", "whole"), [("serve", "test"), ("serve", "train"), ("train", "dev"), ("test", "dev")])
def test_an_environment_contains_the_one_before(part: str, whole: str) -> None:
    assert pins(part)
    assert pins(part) - pins(whole) == set()


def test_the_runtime_is_tested_without_training() -> None:
    packages = {package for package, _ in pins("test")}
    assert packages >= {"bentoml", "onnxruntime-openvino", "pytest"}
    assert not packages & {"torch", "ray", "dvc", "deepface", "scikit-learn"}
