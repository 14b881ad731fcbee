from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests.chaos.report import report_run
from tools.harness.claims import Claim


def test_claims_that_hold_are_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_run(tmp_path, "run", {"cores": 2}, {"sent": 3}, [Claim("it holds", "yes", True)])
    written = json.loads((tmp_path / "chaos-run.json").read_text())
    assert (written["run"], written["held"], written["sent"]) == ("run", True, 3)
    assert "held" in capsys.readouterr().out


def test_claim_that_does_not_hold_exits_with_1(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        report_run(tmp_path, "run", {}, {}, [Claim("it holds", "no", False)])
    assert ended.value.code == 1
    assert json.loads((tmp_path / "chaos-run.json").read_text())["held"] is False
