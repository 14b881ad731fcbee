"""A real Prometheus with what is shipped, watching the real service under load."""

from __future__ import annotations

import json
import shutil

import pytest

from eyestate.bundle import load_bundle
from tests.bundles import write_bundle
from tools.monitoring.check import CheckReport, check_queries
from tools.monitoring.queries import CheckedQuery, QueryResult, dashboard_queries, rule_queries
from tools.monitoring.report import render

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: apt install prometheus)"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> CheckReport:
    folder = tmp_path_factory.mktemp("queries")
    bundle = write_bundle(folder)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["reference"] = load_bundle("final_best").manifest.model_dump(mode="json")["reference"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return check_queries(load_bundle(str(bundle)), folder / "prometheus")


def test_every_query_has_a_value(report: CheckReport) -> None:
    assert report.problems == []


def test_every_query_was_run(report: CheckReport) -> None:
    assert [result.query for result in report.dashboard] == list(dashboard_queries())
    assert [result.query for result in report.rules] == list(rule_queries())


def test_scrapes_stay_far_below_the_sample_limit(report: CheckReport) -> None:
    assert 100 < report.samples < report.limit / 5


def test_load_is_visible_in_the_results(report: CheckReport) -> None:
    values = {result.query.source: result.series for result in report.rules}
    assert values["eyestate:workers:sum"] == [({"job": "eyestate"}, 2)]
    assert values["eyestate:requests:rate5m"][0][1] > 0
    assert 0 < values["eyestate:crops_failed:ratio_rate30m"][0][1] < 1
    statuses = next(result.series for result in report.dashboard if result.query.source == "Requests by status")
    assert {"200", "415", "422", "429"} <= {labels["status"] for labels, _ in statuses}


def test_page_lists_every_query(report: CheckReport) -> None:
    page = render(report)
    for result in (*report.dashboard, *report.rules):
        assert f"| {result.query.source} |" in page
    assert "**" not in page


def test_a_broken_query_is_a_fault() -> None:
    query = CheckedQuery("panel", "up{")
    assert QueryResult(query, [], "parse error").problem == "parse error"
    assert QueryResult(query, []).problem == "no value"
    assert QueryResult(query, [({}, float("nan"))]).problem == "no value"
    assert QueryResult(query, [({}, 0.0)]).problem == ""
    alert = CheckedQuery("alert", "up == 0", may_be_empty=True)
    assert QueryResult(alert, []).problem == ""
    assert QueryResult(alert, [], "parse error").problem == "parse error"
