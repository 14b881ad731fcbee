"""A real Prometheus with what is shipped, watching the real service under load."""

from __future__ import annotations

import json
import shutil

import pytest

from eyestate.bundle import load_bundle
from tests.bundles import write_bundle
from tools.monitoring.questions import Answer, Question, of_dashboard, of_rules
from tools.monitoring.rehearsal import Outcome, rehearse
from tools.monitoring.report import written

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: apt install prometheus)"
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("rehearsal")
    bundle = write_bundle(folder)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["reference"] = load_bundle("final_best").manifest.model_dump(mode="json")["reference"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return rehearse(load_bundle(str(bundle)), folder / "prometheus")


def test_nothing_is_empty_or_in_error(outcome: Outcome) -> None:
    assert outcome.faults == []


def test_everything_was_asked(outcome: Outcome) -> None:
    assert [answer.question for answer in outcome.dashboard] == list(of_dashboard())
    assert [answer.question for answer in outcome.rules] == list(of_rules())


def test_scrapes_stay_far_below_their_limit(outcome: Outcome) -> None:
    assert 100 < outcome.samples < outcome.limit / 5


def test_the_load_is_seen(outcome: Outcome) -> None:
    values = {answer.question.asker: answer.series for answer in outcome.rules}
    assert values["eyestate:workers:sum"] == [({"job": "eyestate"}, 2)]
    assert values["eyestate:requests:rate5m"][0][1] > 0
    assert 0 < values["eyestate:crops_failed:ratio_rate30m"][0][1] < 1
    statuses = next(answer.series for answer in outcome.dashboard if answer.question.asker == "Requests by status")
    assert {"200", "415", "422", "429"} <= {labels["status"] for labels, _ in statuses}


def test_the_page_has_every_answer(outcome: Outcome) -> None:
    page = written(outcome)
    for answer in (*outcome.dashboard, *outcome.rules):
        assert f"| {answer.question.asker} |" in page
    assert "**" not in page


def test_a_broken_query_is_a_fault() -> None:
    question = Question("panel", "up{")
    assert Answer(question, [], "parse error").fault == "parse error"
    assert Answer(question, []).fault == "no value"
    assert Answer(question, [({}, float("nan"))]).fault == "no value"
    assert Answer(question, [({}, 0.0)]).fault == ""
    alert = Question("alert", "up == 0", may_be_empty=True)
    assert Answer(alert, []).fault == ""
    assert Answer(alert, [], "parse error").fault == "parse error"
