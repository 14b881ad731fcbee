"""The tools, in miniature, on the model that the service serves by default; ``footprint`` has its own test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from eyestate.bundle import DEFAULT_MODEL, CascadeBundle
from loadtests import bulk, devices, protocols
from loadtests.capacity.measure import Placement, Plan, measure_curves, single
from loadtests.chaos.__main__ import main as chaos
from loadtests.peers.model import Model
from tools.harness import crops
from tools.harness.servers import PROJECT


def test_devices_measures_each_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESTATE_DATA", str(tmp_path / "none"))
    options = ["--batch", "1", "--seconds", "0.1", "--rounds", "1", "--output", str(tmp_path)]
    result = CliRunner().invoke(devices.main, options)
    assert result.exit_code == 0, result.output
    bundle = crops.bundle(DEFAULT_MODEL)
    assert isinstance(bundle, CascadeBundle)
    found = {
        part["network"]: part["sha256"] for part in json.loads((tmp_path / "devices.json").read_text())["networks"]
    }
    assert found == {part.manifest.name: part.manifest.sha256 for part in (bundle.small, bundle.large)}
    assert f"`{bundle.manifest.name}`" in (tmp_path / "devices.md").read_text()


def test_bulk(tmp_path: Path) -> None:
    options = ["--model", DEFAULT_MODEL, "--crops", "16", "--connections", "1", "--seconds", "1", "--rounds", "1"]
    result = CliRunner().invoke(bulk.main, [*options, "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / f"bulk-{DEFAULT_MODEL}.json").read_text())["rows"]
    assert [row["failed"] for row in rows] == [0] * (len(bulk.MODES) + 1)


def test_chaos(tmp_path: Path) -> None:
    result = CliRunner().invoke(chaos, ["drain", "--workers", "1", "--seconds", "1", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (named,) = json.loads((tmp_path / "chaos-drain.json").read_text())["about"]["models"]
    manifest = crops.bundle(DEFAULT_MODEL).manifest
    assert named == {"name": DEFAULT_MODEL, "version": manifest.version, "sha256": manifest.sha256}


def test_capacity() -> None:
    placement = Placement(1, shared=True, workers=1)
    (curve,) = measure_curves(crops.bundle(DEFAULT_MODEL), placement, [Plan(single(), (0.2,), 0.5, max_rate=100)])
    assert curve.model == DEFAULT_MODEL
    assert curve.points[0].failed == 0


def test_scenarios(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtests.scenarios", "mixed", "--seconds", "3", "--output", str(tmp_path)]
    command += ["--crops", str(PROJECT / "examples")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=200, check=False)
    assert f"Starting the service with {DEFAULT_MODEL}" in done.stdout, done.stderr
    assert (tmp_path / "mixed.html").exists(), done.stderr


def test_peers_answer_as_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EYESTATE_MODEL", raising=False)
    monkeypatch.setenv("EYESTATE_DEVICE", "cpu")
    (answer,) = Model().predict([(PROJECT / "examples" / "closed.jpg").read_bytes()])
    assert (answer["state"], answer["model"]["name"]) == ("closed", DEFAULT_MODEL)


def test_protocols(tmp_path: Path) -> None:
    options = ["--crops", "4", "--connections", "2", "--seconds", "0.2", "--rounds", "1", "--output", str(tmp_path)]
    result = CliRunner().invoke(protocols.main, options)
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "protocols.json").read_text())["rows"]
    assert [row["protocol"] for row in rows] == ["HTTP, binary", "gRPC"]
    assert all(row["requests_per_second"] > 0 for row in rows)
