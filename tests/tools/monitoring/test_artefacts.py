"""Committed files match what is generated, and agree with one another."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from tools.monitoring import artefacts
from tools.monitoring.artefacts import DASHBOARD, FOLDER, SCRAPE, generated, rules

GENERATED = generated()
RULES = rules()
METRICS = (FOLDER.parents[1] / "docs" / "metrics.md").read_text()
PANELS: list[dict[str, Any]] = [
    panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"
]


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_committed_is_generated(path: Path) -> None:
    read = json.loads if path.suffix == ".json" else yaml.safe_load
    assert read(path.read_text()) == read(GENERATED[path]), "run python -m tools.monitoring generate"


def test_links_lead_to_the_site_whose_address_mkdocs_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mkdocs.yml").write_text("site_url: https://git.test/docs/\n")
    monkeypatch.setattr(artefacts, "MKDOCS", tmp_path / "mkdocs.yml")
    made = generated()
    for path in (FOLDER / "rules.yml", FOLDER / "prometheus-rule.yaml"):
        urls = re.findall(r"runbook_url: (\S+)", made[path])
        assert len(urls) >= len({each.get("alert") for each in RULES}) - 1
        assert all(url.startswith("https://git.test/docs/operations/#eyestate") for url in urls)
    assert [link["url"] for link in json.loads(made[DASHBOARD])["links"]] == [
        "https://git.test/docs/operations/#read-the-dashboard",
        "https://git.test/docs/operations/#runbook",
    ]


def test_links_are_absolute() -> None:
    links = [rule["annotations"]["runbook_url"] for rule in RULES if "alert" in rule]
    links += [link["url"] for link in json.loads(DASHBOARD.read_text())["links"]]
    assert all(re.match(r"https://[\w.-]+/", link) for link in links)


def test_rules_are_identical_with_and_without_the_operator() -> None:
    resource = yaml.safe_load((FOLDER / "prometheus-rule.yaml").read_text())
    assert resource["spec"] == yaml.safe_load((FOLDER / "rules.yml").read_text())


def test_scrapes_are_identical_with_and_without_the_operator() -> None:
    config = yaml.safe_load(SCRAPE.read_text())
    (job,) = config["scrape_configs"]
    monitor = yaml.safe_load((FOLDER / "service-monitor.yaml").read_text())["spec"]
    (endpoint,) = monitor["endpoints"]
    assert (endpoint["interval"], endpoint["scrapeTimeout"]) == (
        config["global"]["scrape_interval"],
        config["global"]["scrape_timeout"],
    )
    assert endpoint["path"] == "/metrics"
    assert job["job_name"] == monitor["selector"]["matchExpressions"][0]["values"][0]
    assert {
        "sampleLimit": job["sample_limit"],
        "labelLimit": job["label_limit"],
        "labelNameLengthLimit": job["label_name_length_limit"],
        "labelValueLengthLimit": job["label_value_length_limit"],
    } == {key: value for key, value in monitor.items() if "Limit" in key}


def test_dashboard_conforms_to_grafanas_schema() -> None:
    register_default_plugins()
    committed = json.loads(DASHBOARD.read_text())
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(committed)))
    for panel in read["panels"]:
        defaults = panel.get("fieldConfig", {}).get("defaults", {})
        if defaults.get("custom") == {}:  # the types add an empty one
            del defaults["custom"]
    assert read == committed


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panels_are_described(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    place, targets = panel["gridPos"], panel["targets"]
    assert place["x"] + place["w"] <= 24
    assert len({target["refId"] for target in targets}) == len(targets) > 0
    unit = panel["options"]["yAxis"] if panel["type"] == "heatmap" else panel["fieldConfig"]["defaults"]
    assert unit["unit"]
    named = set(re.findall(r"Eyestate\w+", panel["description"]))
    assert named <= {rule.get("alert") for rule in RULES}


def test_panels_do_not_overlap() -> None:
    cells = [
        (column, row)
        for place in (panel["gridPos"] for panel in PANELS)
        for column in range(place["x"], place["x"] + place["w"])
        for row in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))


def test_every_queried_series_exists() -> None:
    metrics = set(re.findall(r"^\| `(eyestate_\w+)`", METRICS, re.MULTILINE))
    known = {metric + suffix for metric in metrics for suffix in ("", "_bucket", "_sum", "_count")}
    known |= {rule["record"] for rule in RULES if "record" in rule}
    asked = {
        name
        for text in (DASHBOARD, FOLDER / "rules.yml")
        for name in re.findall(r"eyestate[_:][\w:]+", text.read_text())
    }
    assert asked <= known
    assert {rule["record"] for rule in RULES if "record" in rule} <= asked
