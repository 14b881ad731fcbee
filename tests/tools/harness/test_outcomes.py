from __future__ import annotations

from tools.harness.load import LoadGenerator, Outcome
from tools.harness.outcomes import all_accounted_for, none_lost, only_statuses, request_counts


def generator(*outcomes: Outcome) -> LoadGenerator:
    made = LoadGenerator(1, [b""])
    made.outcomes.extend(outcomes)
    made.sent = len(outcomes)
    return made


def answered(status: int) -> Outcome:
    return Outcome(0, 0.01, status, None, None, 1)


LOST = Outcome(0, 0.01, None, "reset by the server", None, 1)


def test_request_counts() -> None:
    found = request_counts(generator(answered(200), answered(200), answered(429), LOST))
    assert found["sent"] == 4
    assert found["answered"] == {"200": 2, "429": 1}
    assert found["lost"] == {"reset by the server": 1}


def test_all_accounted_for() -> None:
    one = generator(answered(200))
    assert all_accounted_for(one).held
    one.sent += 1
    assert not all_accounted_for(one).held


def test_none_lost() -> None:
    assert none_lost(generator(answered(500))).held
    assert not none_lost(generator(answered(200), LOST)).held


def test_only_statuses() -> None:
    assert only_statuses(generator(answered(200), answered(429), LOST), 200, 429).held
    assert not only_statuses(generator(answered(200), answered(500)), 200, 429).held
