from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tools import speed_tables
from tools.figures import filled


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(speed_tables, "REPORTS", tmp_path)
    (tmp_path / "serving").mkdir()
    return tmp_path / "serving"


def bulk_row(crops: int, share: float, failed: int = 0) -> dict[str, Any]:
    return {"mode": {"request": "npy", "response": "JSON", "crops": crops, "connections": 4}} | {
        "share": share,
        "failed": failed,
    }


def test_loads_with_refused_requests_are_no_measure_of_speed(reports: Path) -> None:
    rows = [bulk_row(256, 0.91), bulk_row(1_024, 0.97), bulk_row(4_096, 0.4, failed=3), bulk_row(1, 0.3, failed=1)]
    for model in ("small", "cascade"):
        (reports / f"bulk-{model}.json").write_text(json.dumps({"rows": rows}))
    text = speed_tables.bulk()
    assert "| npy → JSON, packed | 0.91 to 0.97 | 0.91 to 0.97 |" in text
    assert "| npy → JSON, one crop, 4 connections | – | – |" in text


def test_a_block_follows_its_report(reports: Path) -> None:
    page = "<!-- figures: start -->\n<!-- end -->\n"
    for ready in (4.4, 9.6):
        found = {"about": {"cores": 2}, "ready_seconds": ready, "import_seconds": 2.5}
        (reports / "footprint-cascade.json").write_text(json.dumps(found))
        page = filled(page)
        assert f"is ready {ready:.0f} s after its start on 2 cores: 2.5 s go into" in page
        assert f"{ready - 2.5:.1f} s into opening" in " ".join(page.split())


def test_an_execution_without_labelled_crops_has_a_speed_only(reports: Path) -> None:
    row = {"name": "OpenVINO, bf16", "crops_per_second": {"16": 900.0, "4": 1_600.4}, "speedup": 1.94, "eer": {}}
    row |= {"largest_difference": None, "states_changed": None}
    (reports / "devices.json").write_text(json.dumps({"networks": [{"network": "lite", "rows": [row]}]}))
    head, _, line = speed_tables.devices().splitlines()
    assert head.startswith("| `lite`, crops/s by batch size | 4 | 16 | ÷ fp32 |")
    assert line == "| OpenVINO, bf16 | 1,600 | 900 | 1.94 | – | – |"


def test_each_processor_has_rows_of_its_own(reports: Path) -> None:
    for processor, factor in (("AMX", 3), ("AVX2", 1)):
        rows = [
            {"model": "cascade", "deferred": 0.08, "in_process": 4_000 * factor, "over_http": 3_000 * factor},
            {"model": "final_best", "deferred": 0.0, "in_process": 500, "over_http": 400},
        ]
        found = {"about": {"cpu": f"A (B) processor ({processor})"}, "rows": rows}
        (reports / f"pool-{processor.lower()}.json").write_text(json.dumps(found))
    _, _, *lines = speed_tables.pool().splitlines()
    assert lines == [
        "| AMX, `cascade` | 8.0% | 12,000 | 24.0 | 9,000 | 22.5 |",
        "| AMX, `final_best` | – | 500 | 1.0 | 400 | 1.0 |",
        "| AVX2, `cascade` | 8.0% | 4,000 | 8.0 | 3,000 | 7.5 |",
        "| AVX2, `final_best` | – | 500 | 1.0 | 400 | 1.0 |",
    ]
