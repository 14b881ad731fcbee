"""The command on miniature candidates."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from click.testing import CliRunner, Result

from tools.benchmarks.__main__ import main
from tools.benchmarks.candidates import CASCADE, FINAL_BEST, INT8, LITE, OCEC_P, OCEC_S, OPENVINO
from tools.benchmarks.report import Report
from training.evaluation.intervals import Interval

QUICK = ("--batch", "1", "--batch", "64", "--seconds", "0", "--rounds", "1")


def benchmarks(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="python -m tools.benchmarks")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_models_are_evaluated_timed_and_reported(
    here: Path, peers: Path, bundles: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EYESTATE_MODELS", str(bundles))
    monkeypatch.setenv("EYESTATE_DATA", str(data))
    result = benchmarks("--peers", peers, *QUICK)
    assert result.exit_code == 0, result.output
    report = Report.model_validate_json((here / "reports" / "benchmarks" / "cpu.json").read_bytes())
    assert [row.name for row in report.rows] == [FINAL_BEST, LITE, INT8, OPENVINO, OCEC_P, CASCADE]
    assert list(report.missing) == [OCEC_S]
    rows = {row.name: row for row in report.rows}
    for row in report.rows:
        people = [] if row.name == INT8 else ["mrl", "mrl_far", "colour"]
        assert list(row.eer) == ["held_out", "held_out_easy", *people]
        ours = row.name in (FINAL_BEST, LITE, CASCADE)
        assert sorted(row.from_manifest) == (sorted(people) if ours else [])
        assert all(row.eer[name] == Interval(0.05, 0.04, 0.06) for name in row.from_manifest)
        assert all(0 <= eer.low <= eer.value <= eer.high <= 1 for eer in row.eer.values())
    cascade = rows[CASCADE]
    assert list(cascade.deferred) == ["held_out", "held_out_easy", "mrl", "mrl_far", "colour"]
    assert all(0 < share < 1 for share in cascade.deferred.values())
    assert list(rows[LITE].difference) == list(rows[INT8].difference) == ["held_out", "held_out_easy"]
    assert report.mix_deferred is not None
    assert 0 < report.mix_deferred < 1
    assert rows[LITE].cost.flop <= cascade.cost.flop <= rows[LITE].cost.flop + rows[FINAL_BEST].cost.flop
    assert cascade.memory > report.baseline_memory
    assert {speed.batch for speed in report.speeds} == {speed.batch for speed in report.mix} == {1, 64}
    assert {speed.name for speed in report.mix} == {FINAL_BEST, LITE, CASCADE}

    page = (here / "docs" / "benchmarks.md").read_text()
    for name in (FINAL_BEST, LITE, INT8, OPENVINO, OCEC_P, OCEC_S, CASCADE):
        assert f"| {name} |" in page
    assert "not available: no ocec_s.onnx" in page
    assert "| Model | EER, all held-out crops | EER, held-out crops on which people agree, the easy part |" in page
    assert page.count("0.0500 (0.0400 to 0.0600) *") == 9
    assert "Not measured: no GPU" in page
    assert re.search(r"(held|NOT HELD) +EER of final_best_lite within 0.005", result.stdout)
    ET.parse(here / "docs" / "images" / "benchmarks.svg")

    (here / "docs" / "benchmarks.md").unlink()
    regenerated = benchmarks("--page-only")
    assert regenerated.exit_code == 0, regenerated.output
    assert (here / "docs" / "benchmarks.md").read_text() == page


def test_without_models_and_data_the_page_says_so(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESTATE_MODELS", str(here / "models"))
    monkeypatch.setenv("EYESTATE_DATA", str(here / "data"))
    result = benchmarks(*QUICK)
    assert result.exit_code == 0, result.output
    page = (here / "docs" / "benchmarks.md").read_text()
    assert page.count("not available: ") == 6
    assert "the data sets are not available" in page
    assert "![" not in page
    assert "not measured" in page.partition("## Targets")[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_missing_gpu_is_an_error(here: Path) -> None:
    result = benchmarks("--device", "cuda", *QUICK)
    assert result.exit_code == 1
    assert "CUDA is not available" in result.stderr
    assert list(here.iterdir()) == []


def test_page_only_needs_a_report(here: Path) -> None:
    result = benchmarks("--page-only")
    assert result.exit_code == 1
    assert "no cpu.json in reports/benchmarks" in result.stderr
