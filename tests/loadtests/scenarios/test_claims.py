from __future__ import annotations

from loadtests.scenarios.claims import Row, claims
from loadtests.scenarios.plan import Limits
from tools.harness.claims import format_claims

LIMITS = Limits(p95_ms=100, errors=0.01, refused=0.1)
GOOD = Row("single", 1_000, failed=10, refused=100, p95_ms=100)


def broken(rows: list[Row], limits: Limits = LIMITS, exceptions: int = 0) -> list[str]:
    return [claim.what for claim in claims(rows, limits, exceptions) if not claim.held]


def test_values_at_the_limits_hold() -> None:
    assert broken([GOOD]) == []


def test_each_limit_is_checked() -> None:
    assert broken([GOOD._replace(p95_ms=101)]) == ["p95 of single requests at most 100 ms"]
    assert broken([GOOD._replace(failed=11)]) == ["at most 1.00% failed"]
    assert broken([GOOD._replace(refused=101)]) == ["at most 10.00% rejected"]
    assert broken([GOOD], exceptions=1) == ["no user raises an exception"]


def test_shares_cover_all_kinds_and_p95_each() -> None:
    slow = Row("packed", 1_000, failed=0, refused=0, p95_ms=300)
    assert broken([GOOD._replace(failed=20), slow]) == ["p95 of packed requests at most 100 ms"]


def test_kind_without_a_response() -> None:
    assert broken([GOOD, Row("packed", 0, 0, 0, None)]) == ["packed requests are answered"]
    assert "single requests are answered" in broken([Row("single", 5, failed=0, refused=5, p95_ms=None)])


def test_overload_without_rejections() -> None:
    limits = Limits(p95_ms=100, errors=1, refused=1, refused_from=0.5)
    assert broken([GOOD], limits) == ["at least 50.00% rejected, or it was no overload"]
    assert broken([GOOD._replace(refused=500)], limits) == []


def test_formatted() -> None:
    lines = format_claims(claims([GOOD._replace(p95_ms=250)], LIMITS, 0)).splitlines()
    assert "held      single requests are answered: 890 of 1,000" in lines
    assert "NOT HELD  p95 of single requests at most 100 ms: 250 ms" in lines
