"""The page about the configuration says what a service really does where nothing is set."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.service.conftest import PROJECT

PAGES = (*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md"), PROJECT / "loadtests" / "README.md")
TABLE = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")
DEFAULTS = dict(re.findall(r"^\| `(\w+)` \| .+ \| (.*?) ?\|$", TABLE, re.MULTILINE))
SHOW = """
from eyestate.server import service
print(service.SETTINGS.model_dump_json())
print(service.MODEL.manifest.name)
"""
STARTS = re.compile(r"(bentoml|eyestate) serve|make serve|(docker|podman) run")
EVERYWHERE = re.compile(r"0\.0\.0\.0|-p \d+:|\[::\]")


@pytest.fixture(scope="module")
def unset(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The settings and the model of the service where the environment says nothing."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EYESTATE_")}
    environment["BENTOML_HOME"] = str(tmp_path_factory.mktemp("bentoml"))
    command = [sys.executable, "-c", SHOW]
    settings, model = subprocess.check_output(command, cwd=PROJECT, env=environment, text=True).splitlines()
    return json.loads(settings), model


def test_the_default_model_is_the_one_that_is_served(unset: tuple[dict[str, Any], str]) -> None:
    assert re.match(r"`(\w+)`", DEFAULTS["EYESTATE_MODEL"])[1] == unset[1]  # type: ignore[index]  # it starts with one


def test_every_other_default_is_the_one_of_the_service(unset: tuple[dict[str, Any], str]) -> None:
    for name, value in unset[0].items():
        shown = DEFAULTS[f"EYESTATE_{name.upper()}"].strip("`")
        if value in (None, []):
            assert not re.search(r"\d", shown), name  # what that means, in words
        else:
            assert shown == (f"{value:g}" if isinstance(value, float) else str(value).lower()), name


def test_the_images_serve_what_the_page_says(unset: tuple[dict[str, Any], str]) -> None:
    stages = re.split(r"^FROM .* AS ", (PROJECT / "Dockerfile").read_text(), flags=re.MULTILINE)
    set_in = {stage.split()[0]: re.findall(r"EYESTATE_MODEL=(\w+)", stage) for stage in stages[1:]}
    found = {image: (set_in["runtime"] + set_in[image] or [unset[1]])[-1] for image in ("cpu", "cuda")}
    cuda = re.search(r"`(\w+)` in the CUDA image", DEFAULTS["EYESTATE_MODEL"])
    assert found == {"cpu": unset[1], "cuda": cuda[1] if cuda else unset[1]}


def test_the_manifests_serve_the_default(unset: tuple[dict[str, Any], str]) -> None:
    (generator,) = yaml.safe_load((PROJECT / "k8s/base/kustomization.yaml").read_text())["configMapGenerator"]
    assert f"EYESTATE_MODEL={unset[1]}" in generator["literals"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_example_lets_everybody_in(page: Path) -> None:
    """A service that others can reach has keys; one without keys listens, or is published, on this machine only."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    examples = [line for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    for command in filter(STARTS.search, [*examples, *re.findall(r"`([^`\n]+)`", text)]):
        guarded = "API_KEYS_FILE" in command
        assert guarded or not EVERYWHERE.search(command), command
        if command in examples and "bentoml serve" in command:
            assert guarded or "--host 127.0.0.1" in command, command  # BentoML's own default is every interface
