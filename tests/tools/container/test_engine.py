from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tools.container.__main__ import main
from tools.container.build import labels, tag
from tools.container.engine import Engine, ImageError, builder, runner


def put(folder: Path, name: str, code: int) -> None:
    """A command of that name which ends with that code."""
    (folder / name).write_text(f"#!/bin/sh\necho 'first line' >&2; echo 'cannot do that' >&2\nexit {code}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder with commands."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_client_without_its_engine_is_passed_over(commands: Path) -> None:
    put(commands, "docker", 1)
    put(commands, "buildah", 0)
    assert builder() == Engine("buildah")
    put(commands, "podman", 0)
    assert builder() == runner() == Engine("podman")
    put(commands, "docker", 0)
    assert builder() == runner() == Engine("docker")


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize(
    ("command", "advice"), [("build", "install buildah"), ("test", "install podman"), ("sbom", "install podman")]
)
def test_without_an_engine_one_line_says_what_to_install(command: str, advice: str) -> None:
    result = CliRunner().invoke(main, [command])
    assert result.exit_code == 1
    assert advice in result.output
    assert result.output.count("\n") == 1


def test_a_failure_is_told_by_the_last_words_of_the_engine(commands: Path) -> None:
    put(commands, "podman", 1)
    with pytest.raises(ImageError, match=r"^`podman image` failed: cannot do that$"):
        Engine("podman")("image", "inspect", "none")


def test_a_container_gets_no_right_that_it_does_not_need() -> None:
    flags = " ".join(Engine("docker").hardening_flags())
    for wanted in ("--read-only", "--cap-drop ALL", "no-new-privileges"):
        assert wanted in flags


def test_labels_tell_version_revision_and_time() -> None:
    found = labels()
    assert tag("cuda").endswith(f":{found['version']}-cuda")
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found["revision"])
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]", found["created"])
