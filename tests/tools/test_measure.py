from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tools import figures, measure
from tools.figures import KNOWN_STALE, reports, shipped
from tools.measure import MEASUREMENTS, Measurement

OF_TRAINING = {"behaviour.json", "calibration.json", "evaluation.json"}
WRITE = """
import json, pathlib, sys
path, name = pathlib.Path(sys.argv[1]), sys.argv[2]
path.write_text(json.dumps({"about": {"models": [json.loads(name)]}}))
sys.exit(1)
"""


def test_every_report_has_a_command() -> None:
    made = {each.report for each in MEASUREMENTS}
    assert {name for name in reports() if Path(name).name not in OF_TRAINING} <= made
    assert made >= KNOWN_STALE


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Reports of which one is current, and whose commands fail, the other's after it has been written."""
    ours = json.dumps(shipped()["cascade"])
    (tmp_path / "write.py").write_text(WRITE)
    (tmp_path / "now.json").write_text(json.dumps({"about": {"models": [json.loads(ours)]}}))
    monkeypatch.setattr(figures, "REPORTS", tmp_path)
    monkeypatch.setattr(figures, "PAGES", ())
    monkeypatch.setattr(measure, "PROJECT", tmp_path)
    monkeypatch.setattr(measure, "SCRATCH", tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "ours").write_text(ours)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *measurements: Measurement) -> tuple[int, str]:
    monkeypatch.setattr(measure, "MEASUREMENTS", measurements)
    result = CliRunner().invoke(measure.main, [])
    return result.exit_code, result.output


def test_only_what_is_older_is_measured_and_a_claim_that_fails_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = json.dumps(shipped()["cascade"], separators=(",", ":"))
    current = Measurement("now.json", "nothing_of_this_name", 1)
    older = Measurement("then.json", f"write {folder / 'then.json'} {name}", 1)
    assert older.is_current is False
    code, said = run(monkeypatch, current, older)
    assert (code, older.is_current) == (0, True)
    assert "now.json" not in said
    assert "then.json: exit code 1, see logs/measure-then.log" in said


def test_a_report_that_is_not_made_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = run(monkeypatch, Measurement("never.json", "nothing_of_this_name", 1))
    assert code == 1
    assert "not measured: never.json" in said
    assert "No module named" in (folder / "logs" / "measure-never.log").read_text()
