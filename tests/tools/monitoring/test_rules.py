"""The rules under promtool: every alert fires when it should, and only then."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.monitoring.artefacts import FOLDER, RULES, compared_series, operations_page, rules

ALERTS = [rule for rule in rules() if "alert" in rule]
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
CASES = sorted((Path(__file__).parent / "rules").glob("*_test.yml"))
MOMENTS = [
    moment for file in CASES for case in yaml.safe_load(file.read_text())["tests"] for moment in case["alert_rule_test"]
]
RUNBOOK = (FOLDER.parents[1] / "docs" / "operations.md").read_text().partition("\n## Runbook\n")[2]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt install prometheus)"
)


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def name(rule: dict[str, Any]) -> str:
    return " ".join([rule["alert"], *rule["labels"].get("windows", "").split()])


@needs_promtool
def test_promtool_accepts_rules_and_configuration() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", FOLDER / "rules.yml")
    promtool("check", "config", "--lint=all", "--lint-fatal", FOLDER / "prometheus.yml")


@needs_promtool
@pytest.mark.parametrize("cases", CASES, ids=lambda cases: cases.stem)
def test_alerts_fire_when_they_should(cases: Path, tmp_path: Path) -> None:
    """The cases have links as they are in the repository; the rules have those of the site."""
    written = tmp_path / cases.name
    text = cases.read_text().replace("docs/operations.md#", f"{operations_page()}#")
    written.write_text(text.replace("../../../../k8s/monitoring/rules.yml", str(RULES)))
    promtool("test", "rules", written)


@pytest.mark.parametrize("rule", ALERTS, ids=name)
def test_alert_is_tested_firing_and_not_firing(rule: dict[str, Any]) -> None:
    moments = [moment for moment in MOMENTS if moment["alertname"] == rule["alert"]]
    windows = rule["labels"].get("windows")
    fires = [
        any(alert["exp_labels"].get("windows") == windows for alert in moment.get("exp_alerts", []))
        for moment in moments
    ]
    assert set(fires) == {True, False}


@pytest.mark.parametrize("rule", ALERTS, ids=name)
def test_alert_compares_recorded_series(rule: dict[str, Any]) -> None:
    series = compared_series(rule["expr"])
    assert set(series) <= RECORDED
    assert re.fullmatch(r"\S+ \S+ [\d.]+( and \S+ \S+ [\d.]+)?", rule["expr"])
    assert len(series) == rule["expr"].count(" and ") + 1


@pytest.mark.parametrize("rule", ALERTS, ids=name)
def test_alert_has_a_runbook_entry(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{operations_page()}#{rule['alert'].lower()}"
    entry = re.search(rf"^### {rule['alert']}\n(.+?)(?=^#|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert entry, f"docs/operations.md has no entry for {rule['alert']}"
    for part in ("**Means**", "**Users**", "**Check**", "**Do**"):
        assert part in entry[1]


def test_only_alerts_with_user_impact_page() -> None:
    assert {rule["alert"] for rule in ALERTS if rule["labels"]["severity"] == "page"} == {
        "EyestateDown",
        "EyestateAvailabilityBudgetBurn",
        "EyestateLatencyBudgetBurn",
        "EyestateFacesBudgetBurn",
    }


def test_runbook_has_no_entry_without_an_alert() -> None:
    assert re.findall(r"^### (Eyestate\w+)", RUNBOOK, re.MULTILINE) == list(dict.fromkeys(a["alert"] for a in ALERTS))
