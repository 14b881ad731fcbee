from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.harness.account import Sample, balanced, books, finish, growth, nothing_lost, only
from tools.harness.claims import Claim
from tools.harness.load import Generator, Outcome


def generator(*outcomes: Outcome) -> Generator:
    made = Generator(1, [b""])
    made.outcomes.extend(outcomes)
    made.sent = len(outcomes)
    return made


def answered(status: int) -> Outcome:
    return Outcome(0, 0.01, status, None, None, 1)


LOST = Outcome(0, 0.01, None, "reset by the server", None, 1)


class TestClaims:
    def test_books(self) -> None:
        found = books(generator(answered(200), answered(200), answered(429), LOST))
        assert found["sent"] == 4
        assert found["answered"] == {"200": 2, "429": 1}
        assert found["lost"] == {"reset by the server": 1}

    def test_balanced(self) -> None:
        one = generator(answered(200))
        assert balanced(one).held
        one.sent += 1
        assert not balanced(one).held

    def test_nothing_lost(self) -> None:
        assert nothing_lost(generator(answered(500))).held
        assert not nothing_lost(generator(answered(200), LOST)).held

    def test_only(self) -> None:
        assert only(generator(answered(200), answered(429), LOST), 200, 429).held
        assert not only(generator(answered(200), answered(500)), 200, 429).held


class TestGrowth:
    def test_leak(self) -> None:
        samples = [Sample(second, 100 + second / 30) for second in range(120)]
        found = growth(samples, warm_up=30)
        assert found.slope_mib_per_minute == pytest.approx(2, abs=0.01)
        assert found.total_mib == pytest.approx(80 / 30, abs=0.1)

    def test_what_is_taken_at_the_start_is_no_growth(self) -> None:
        samples = [Sample(second, 50 if second < 20 else 100) for second in range(120)]
        found = growth(samples, warm_up=30)
        assert found.slope_mib_per_minute == pytest.approx(0, abs=1e-6)
        assert (found.total_mib, found.most_mib) == (0, 100)

    def test_short_run(self) -> None:
        assert growth([Sample(0, 10.0)], warm_up=5).total_mib == 0


class TestFinish:
    def test_held(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        finish(tmp_path, "run", {"cores": 2}, {"sent": 3}, [Claim("it holds", "yes", True)])
        written = json.loads((tmp_path / "chaos-run.json").read_text())
        assert (written["run"], written["held"], written["sent"]) == ("run", True, 3)
        assert "held" in capsys.readouterr().out

    def test_not_held(self, tmp_path: Path) -> None:
        with pytest.raises(SystemExit) as ended:
            finish(tmp_path, "run", {}, {}, [Claim("it holds", "no", False)])
        assert ended.value.code == 1
        assert json.loads((tmp_path / "chaos-run.json").read_text())["held"] is False
