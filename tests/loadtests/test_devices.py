from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eyestate.bundle import Thresholds, load_bundle
from loadtests.devices import (
    REFERENCE,
    LabelledSet,
    Measured,
    compare,
    executions,
    measure_speeds,
    page,
    states_changed,
)
from tools.harness.small_bundle import SIDE, write_small_bundle

THRESHOLDS = Thresholds(closed=0.25, open=0.75, rule="")


def test_states_changed() -> None:
    before = np.array([0.1, 0.25, 0.26, 0.74, 0.75, 0.9], np.float32)
    after = np.array([0.2, 0.26, 0.26, 0.75, 0.75, 0.9], np.float32)
    assert states_changed(before, before, THRESHOLDS) == 0
    assert states_changed(after, before, THRESHOLDS) == pytest.approx(2 / 6, abs=1e-5)


def test_rows_compare_with_the_first(tmp_path: Path) -> None:
    bundle = load_bundle(write_small_bundle(tmp_path))
    found = list(executions(bundle, None, 1))
    assert found[0].name == REFERENCE
    random = np.random.default_rng(0)
    labelled = LabelledSet("noise", random.integers(0, 256, (40, SIDE, SIDE)).astype(np.uint8), [0, 1] * 20)
    speeds = measure_speeds(found, SIDE, (1, 4), 0.01, 1)
    rows = compare(found, speeds, [labelled], bundle.manifest.thresholds)
    assert [row.name for row in rows] == [item.name for item in found]
    assert (rows[0].speedup, rows[0].largest_difference, rows[0].states_changed) == (1, 0, 0)
    assert all(row.largest_difference is not None and row.largest_difference < 0.05 for row in rows)
    text = page(Measured("small", "ab" * 32, rows, {"noise": 40}))
    assert f"| {REFERENCE} | 0.0000 |" in text


def test_without_data_only_speed_is_measured(tmp_path: Path) -> None:
    bundle = load_bundle(write_small_bundle(tmp_path))
    found = list(executions(bundle, None, 1))[:1]
    rows = compare(found, measure_speeds(found, SIDE, (1,), 0.01, 1), [], bundle.manifest.thresholds)
    assert rows[0].largest_difference is None
    assert "EER" not in page(Measured("small", "ab" * 32, rows, {}))
