from __future__ import annotations

import re
from pathlib import Path

import pytest

from loadtests.scenarios.plan import SCENARIOS, Stage, scaled, users_at

STAGES = (Stage(10, 4), Stage(20, 40), Stage(10, 1))


@pytest.mark.parametrize(
    ("seconds", "users"), [(0, 4), (9.9, 4), (10, 40), (29.9, 40), (30, 1), (39.9, 1), (40, None), (400, None)]
)
def test_users_by_stage(seconds: float, users: int | None) -> None:
    assert users_at(STAGES, seconds) == users


def test_scaled() -> None:
    assert scaled(STAGES, factor=1, seconds=None) == STAGES
    assert scaled(STAGES, factor=0.5, seconds=4) == (Stage(1, 2), Stage(2, 20), Stage(1, 1))


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_kind_of_user_takes_part(name: str) -> None:
    # With all three kinds Locust divides ten users into eight, one and one.
    scenario = SCENARIOS[name]
    fewest = min(stage.users for stage in scenario.stages)
    assert fewest >= (10 if "single" in scenario.kinds and len(scenario.kinds) > 1 else len(scenario.kinds))


def test_readme_lists_every_scenario() -> None:
    readme = (Path(__file__).parents[3] / "loadtests" / "README.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE) == list(SCENARIOS)


def test_spike_rises_and_falls() -> None:
    users = [stage.users for stage in SCENARIOS["spike"].stages]
    assert users[0] == users[-1] < users[1] / 5


def test_only_overload_may_be_rejected_without_limit() -> None:
    assert {name for name, scenario in SCENARIOS.items() if scenario.limits.refused > 0.1} == {"overload"}
    assert SCENARIOS["overload"].limits.refused_from > 0
