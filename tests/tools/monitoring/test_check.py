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
def outcome(tmp_path_factory: pytest.TempPathFactory) -> CheckReport:
    folder = tmp_path_factory.mktemp("rehearsal")
    bundle = write_bundle(folder)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["reference"] = load_bundle("final_best").manifest.model_dump(mode="json")["reference"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return check_queries(load_bundle(str(bundle)), folder / "prometheus")


def test_nothing_is_empty_or_in_error(outcome: CheckReport) -> None:
    assert outcome.problems == []


def test_everything_was_asked(outcome: CheckReport) -> None:
    assert [answer.question for answer in outcome.dashboard] == list(dashboard_queries())
    assert [answer.question for answer in outcome.rules] == list(rule_queries())


def test_scrapes_stay_far_below_their_limit(outcome: CheckReport) -> None:
    assert 100 < outcome.samples < outcome.limit / 5


def test_the_load_is_seen(outcome: CheckReport) -> None:
    values = {answer.question.source: answer.series for answer in outcome.rules}
    assert values["eyestate:workers:sum"] == [({"job": "eyestate"}, 2)]
    assert values["eyestate:requests:rate5m"][0][1] > 0
    assert 0 < values["eyestate:crops_failed:ratio_rate30m"][0][1] < 1
    statuses = next(answer.series for answer in outcome.dashboard if answer.question.source == "Requests by status")
    assert {"200", "415", "422", "429"} <= {labels["status"] for labels, _ in statuses}


def test_the_page_has_every_answer(outcome: CheckReport) -> None:
    page = render(outcome)
    for answer in (*outcome.dashboard, *outcome.rules):
        assert f"| {answer.question.source} |" in page
    assert "**" not in page


def test_a_broken_query_is_a_fault() -> None:
    question = CheckedQuery("panel", "up{")
    assert QueryResult(question, [], "parse error").problem == "parse error"
    assert QueryResult(question, []).problem == "no value"
    assert QueryResult(question, [({}, float("nan"))]).problem == "no value"
    assert QueryResult(question, [({}, 0.0)]).problem == ""
    alert = CheckedQuery("alert", "up == 0", may_be_empty=True)
    assert QueryResult(alert, []).problem == ""
    assert QueryResult(alert, [], "parse error").problem == "parse error"
