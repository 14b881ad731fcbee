"""What the README shows is what a reader gets."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.service.conftest import PROJECT

README = (PROJECT / "README.md").read_text()
SERVICE = "http://127.0.0.1:3000"


def shown(program: str) -> list[tuple[str, str]]:
    """The commands of one program in the README's console blocks, and the output printed below each."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    examples = (re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE) for block in blocks)
    return [(command, output) for command, output in chain(*examples) if command.startswith(program)]


def comparable(value: Any) -> Any:
    """Scores to three decimals: processors differ in the last digits."""
    match value:
        case float():
            return round(value, 3)
        case dict():
            return {key: comparable(item) for key, item in value.items()}
        case list():
            return [comparable(item) for item in value]
        case _:
            return value


@pytest.mark.parametrize(("command", "output"), shown("curl"), ids=lambda text: text[:40])
def test_curl(service: str, command: str, output: str) -> None:
    arguments = shlex.split(command.replace(SERVICE, service))
    printed = subprocess.run([*arguments, "-s"], cwd=PROJECT, capture_output=True, check=True, text=True).stdout
    assert comparable(json.loads(printed)) == comparable(json.loads(output))


@pytest.mark.parametrize(("command", "output"), shown(".venv/bin/eyestate"), ids=lambda text: text[:40])
def test_command(command: str, output: str) -> None:
    arguments = [str(Path(sys.executable).with_name("eyestate")), *shlex.split(command)[1:]]
    printed = subprocess.run(arguments, cwd=PROJECT, capture_output=True, check=True, text=True).stdout
    digits = re.compile(r"(\d\.\d{3})\d+")
    assert digits.sub(r"\1", printed) == digits.sub(r"\1", output)


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL), ids=["triton", "eyestate"])
def test_python(service: str, code: str) -> None:
    check = code.replace("127.0.0.1:3000", service.removeprefix("http://"))
    check += "\nassert scores.shape == (1_000,)" if "tritonclient" in code else "\nassert scores[0] > 0.5 > scores[1]"
    subprocess.run([sys.executable, "-c", check], cwd=PROJECT, check=True)


def test_every_example_is_checked() -> None:
    assert len(shown("curl")) == 4
    assert len(shown(".venv/bin/eyestate")) == 1


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (PROJECT / target).exists(), target
