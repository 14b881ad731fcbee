from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import eyestate
from tools.blinks import (
    CONDITIONS,
    METHODS,
    Condition,
    Person,
    Tally,
    Truth,
    by_timeline,
    closure,
    drawn_person,
    measure,
    report,
)


@pytest.fixture(scope="module")
def people() -> Sequence[Person]:
    scorer = eyestate.load()
    return [drawn_person(scorer, np.random.default_rng([number, 0])) for number in range(2)]


def test_blinks_of_drawn_eyes_are_found_among_wrong_scores_and_dropped_frames(people: Sequence[Person]) -> None:
    tally = measure(people, Condition("", rate=30, wrong=0.02, dropped=0.1), by_timeline, seconds=150)
    assert tally.true > 40
    assert tally.f1 >= 0.98


def test_lids_close_and_open_again() -> None:
    times = np.arange(0, 1, 0.001)
    closed = closure([Truth(0.2, 0.4, 1.0)], times)
    assert closed.max() == pytest.approx(1, abs=1e-3)
    assert (closed >= 0.5).mean() == pytest.approx(0.2, abs=0.003)


def test_the_report_has_a_row_for_each_method() -> None:
    text = report([(CONDITIONS[0], name, Tally(4, 4, 3, 3, 0.03)) for name in METHODS], "`cascade`", 1, 2)
    assert text.count("| 4 | 0.750 | 0.750 | 0.750 | 1.000 | 10 |") == len(METHODS)
