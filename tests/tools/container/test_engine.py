from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tools.container.__main__ import main
from tools.container.build import labels, tag
from tools.container.engine import Engine, ImageError, builder, runner


def fake_command(folder: Path, name: str, code: int) -> None:
    """A command of that name which ends with that code."""
    (folder / name).write_text(f"#!/bin/sh\necho 'first line' >&2; echo 'cannot do that' >&2\nexit {code}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder with commands."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_client_without_a_working_engine_is_skipped(commands: Path) -> None:
    fake_command(commands, "docker", 1)
    fake_command(commands, "buildah", 0)
    assert builder() == Engine("buildah")
    fake_command(commands, "podman", 0)
    assert builder() == runner() == Engine("podman")
    fake_command(commands, "docker", 0)
    assert builder() == runner() == Engine("docker")


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize(
    ("command", "advice"), [("build", "install buildah"), ("test", "install podman"), ("sbom", "install podman")]
)
def test_missing_engine_is_reported_in_one_line(command: str, advice: str) -> None:
    result = CliRunner().invoke(main, [command])
    assert result.exit_code == 1
    assert advice in result.output
    assert result.output.count("\n") == 1


def test_failure_ends_with_the_engines_message(commands: Path) -> None:
    fake_command(commands, "podman", 1)
    with pytest.raises(ImageError, match=r"^`podman image` failed: cannot do that$"):
        Engine("podman")("image", "inspect", "none")


def test_containers_run_without_privileges() -> None:
    flags = " ".join(Engine("docker").hardening_flags())
    for wanted in ("--read-only", "--cap-drop ALL", "no-new-privileges"):
        assert wanted in flags


def test_labels_have_version_revision_and_time() -> None:
    found = labels()
    assert tag("cuda").endswith(f":{found['version']}-cuda")
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found["revision"])
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]", found["created"])
