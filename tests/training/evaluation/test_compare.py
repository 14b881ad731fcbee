from __future__ import annotations

from training.evaluation.compare import ATTEMPTS


def test_attempts_have_names_of_their_own() -> None:
    assert len({attempt.name for attempt in ATTEMPTS}) == len(ATTEMPTS)
