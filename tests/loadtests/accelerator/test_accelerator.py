from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eyestate.bundle import load_bundle
from loadtests.accelerator import gpu_use, torch_network
from loadtests.accelerator.__main__ import Figures, main, torch_speeds
from loadtests.accelerator.quiet import stderr_in
from tests import half
from tests.bundles import write_bundle


def test_it_runs_from_end_to_end_on_a_cpu_and_prints_the_table_last(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path)
    arguments = ["--device", "cpu", "--model", str(bundle), "--seconds", "0.1", "--output", str(tmp_path)]
    loads = ["--connections", "1", "--connections", "8", "--at-a-time", "1", "--crops", "256"]
    result = CliRunner().invoke(main, [*arguments, *loads], catch_exceptions=False)
    assert result.exit_code == 0
    rows = json.loads((tmp_path / "accelerator-cpu.json").read_text())["rows"]
    assert [where for _, where, _ in rows] == [
        "seconds until ready",
        "single crops, 1 connections",
        "single crops, 8 connections",
        "256 packed crops, 1 at a time",
        "memory of its processes",
        "seconds to open",
        "cpu-fp32, as served, crops of 16 px",
        "largest difference from the CPU's scores",
    ]
    assert "req/s" in rows[1][2]
    assert rows[3][2].endswith("crops/s")
    assert "1: " in rows[6][2]
    assert rows[7][2] == "0.0000"
    assert result.output.rstrip().endswith("| 0.0000 |")


def test_it_says_which_model_is_the_quickest() -> None:
    figures = Figures(packed={"final_best": 50_000.0, "cascade": 150_000.0})
    figures.compare_models()
    assert figures.rows == [("quickest model", "packed crops", "`cascade`, 3.0 × `final_best`")]


def test_nothing_is_begun_after_the_time_is_over(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path)
    arguments = ["--device", "cpu", "--model", str(bundle), "--seconds", "0.7", "--minutes", "0.01"]
    result = CliRunner().invoke(main, [*arguments, "--output", str(tmp_path)], catch_exceptions=False)
    rows = json.loads((tmp_path / "accelerator-cpu.json").read_text())["rows"]
    assert result.exit_code == 0
    assert [where for _, where, _ in rows] == ["seconds until ready", "memory of its processes"]


def test_what_libraries_write_goes_to_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with stderr_in(tmp_path / "log"):
        os.write(2, b"a flood of warnings\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
    assert (tmp_path / "log").read_text() == "a flood of warnings\n"


class TestUse:
    def test_is_what_nvidia_smi_says(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        smi = tmp_path / "nvidia-smi"
        smi.write_text(f"#!{sys.executable}\nprint('2048, 73')\n")
        smi.chmod(smi.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(gpu_use, "_PERIOD", 0.01)
        with gpu_use.watched() as use:
            while not use.busy:
                pass
        assert (use.most_memory, use.mean_busy) == (2048, 73)

    def test_without_it_nothing_is_seen(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with gpu_use.watched() as use:
            pass
        assert (use.most_memory, use.mean_busy) == (None, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_pytorch_has_no_figure() -> None:
    assert torch_speeds(b"", 32, (1, 4), 1) == {}


@pytest.mark.parametrize("model", ["final_best", "final_best_lite"])
def test_pytorch_computes_the_same_network(model: str) -> None:
    bundle = load_bundle(model)
    side = bundle.manifest.input.side
    crops = np.random.default_rng(0).integers(0, 256, (4, side, side), np.uint8)
    network = torch_network.TorchNetwork(bundle.content, "cpu", torch.float32)
    with torch.no_grad():
        found = network(torch.from_numpy(crops)).numpy()
    np.testing.assert_allclose(found, half.scores(bundle.content, crops), atol=1e-4)
