"""What the README and the guides show is what a reader gets."""

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

from tests.service.conftest import PROJECT, started_service, wait_until_ready
from tools.harness.servers import free_port

DOCUMENTS = ("README.md", *(f"docs/{name}.md" for name in ("http-api", "python", "cli", "batch")))
TEXT = "\n".join((PROJECT / document).read_text(encoding="utf-8") for document in DOCUMENTS)
SERVICE = "http://127.0.0.1:3000"


def shown(program: str) -> list[tuple[str, str]]:
    """The commands of one program in the console blocks, and the output printed below each."""
    blocks = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
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
def test_command(service: str, tmp_path: Path, command: str, output: str) -> None:
    (tmp_path / "examples").symlink_to(PROJECT / "examples")
    arguments = shlex.split(command.replace(SERVICE, service))
    arguments[0] = str(Path(sys.executable).with_name("eyestate"))
    printed = subprocess.run(arguments, cwd=tmp_path, capture_output=True, check=True, text=True).stdout
    digits = re.compile(r"(\d\.\d{3})\d+")
    assert digits.sub(r"\1", printed) == digits.sub(r"\1", output)


CODE = set(re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))


CHECKS = {  # by what an example imports or calls
    "tritonclient.http": "scores.shape == (1_000,)",
    "eyestate.load": "scores[0] > 0.5 > scores[1]",
    "eyestate.client": "{verdict.state for verdict in verdicts} == {'open', 'closed'}",
}

GRPC = "tritonclient.grpc"


@pytest.mark.parametrize("sign", CHECKS)
def test_python(service: str, sign: str) -> None:
    (code,) = (block for block in CODE if sign in block)
    check = CHECKS[sign]
    code = code.replace(SERVICE.removeprefix("http://"), service.removeprefix("http://"))
    subprocess.run([sys.executable, "-c", f"{code}\nassert {check}"], cwd=PROJECT, check=True)


def test_python_over_grpc(tmp_path: Path) -> None:
    (code,) = (block for block in CODE if GRPC in block)
    log, port = tmp_path / "log", free_port()
    with started_service(tmp_path / "home", log, EYESTATE_GRPC_PORT=str(port)) as (process, url):
        wait_until_ready(process, url, log)
        code = code.replace("127.0.0.1:3001", f"127.0.0.1:{port}")
        subprocess.run([sys.executable, "-c", f"{code}\nassert scores.shape == (1_000,)"], cwd=PROJECT, check=True)


def test_every_example_is_checked() -> None:
    checked = [command for program in ("curl", ".venv/bin/eyestate") for command, _ in shown(program)]
    assert checked
    unchecked = {command for command, _ in shown("") if command not in checked}
    assert {command.split()[0] for command in unchecked} <= {"git", "cd", "make"}
    assert [block for block in CODE if not any(sign in block for sign in (*CHECKS, GRPC))] == []
