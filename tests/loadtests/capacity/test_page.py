from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from loadtests.capacity.__main__ import DOCUMENT, PLOT, REPORTS
from loadtests.capacity.measure import Placement
from loadtests.capacity.page import Measurement, blocks, fill, number, report
from loadtests.capacity.plot import draw
from loadtests.capacity.sizing import Assumptions
from tests.loadtests.capacity.curves import curve, point
from tests.svg import read_svg
from tools.harness.servers import PROJECT

ASSUMED = Assumptions()
TWO = Placement(2, shared=True, workers=2)
ABOUT = {
    "measured": "2026-01-01T00:00:00+00:00",
    "models": [{"name": "final_best", "version": "2.0.0", "sha256": "9a9dd7677e97" * 5}],
    "cores": 2,
    "cpu": "CPU",
    "python": "3.11",
    "versions": {},
    "settings": {"seconds": 6},
}
RISING = [point(10, 20), point(50, 40), point(100, 400), point(150, 4_000)]
FOUND = Measurement(
    ABOUT,
    {"single": 50, "packed": 5_000},
    [
        curve("final_best", RISING),
        curve("final_best", [point(0.5, 2_000, crops=256)], crops=256),
        curve("small", [point(1_000, 5), point(2_000, 30)]),
        curve("final_best", [point(60, 40)], placement=replace(TWO, workers=1)),
        curve("final_best", [point(90, 40)], placement=TWO, memory_mib=1_000),
        curve("final_best", [point(50, 30), point(100, 45, refused=250)], queue=2),
    ],
)


def rows(text: str) -> list[list[str]]:
    """The cells of a Markdown table, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"][2:]


def test_knees_and_maxima() -> None:
    by_curve = {cells[0]: cells for cells in rows(blocks(FOUND, ASSUMED)["one-core"])}
    assert by_curve["final_best in fp32, one JPEG, 1 separate core, 1 worker"][1:5] == ["50.0", "50.0", "10.0", "40.0"]
    assert by_curve["final_best in fp32, one JPEG, 1 separate core, 1 worker"][6] == "150"
    assert by_curve["final_best in fp32, 256 packed, 1 separate core, 1 worker"][1:3] == ["0.500", "128"]
    assert len(by_curve) == 3


def test_settings_follow_from_the_load_per_pod() -> None:
    found = {cells[0]: cells[1] for cells in rows(blocks(FOUND, ASSUMED)["settings"])}
    assert found["requests/s per pod"] == "35.0"  # 0.7 of 50
    assert found["HPA `averageUtilization`"] == "18"  # 35 of 200
    assert found["`requests.memory`"] == "640Mi"  # 500 and a quarter, in steps of 128
    assert found["KEDA, queued crops"] == "3.75"  # of 150 crops/s, those of 25 ms
    assert found["`EYESTATE_QUEUE`"] == "2"


def test_cost_per_million_is_that_of_a_scaled_day() -> None:
    sizes = rows(blocks(FOUND, ASSUMED)["sizes"])
    assert [cells[-1] for cells in sizes[:3]] == ["1.92", "0.317", "0.317"]  # at first two pods, whatever they do
    assert "SHA-256 `9a9dd7677e97`" in blocks(FOUND, ASSUMED)["circumstances"]


def test_limit_that_no_rate_keeps() -> None:
    slow = replace(FOUND, limits={"single": 1, "packed": 1})
    made = blocks(slow, ASSUMED)
    assert "too slow for that target" in made["settings"]
    assert rows(made["sizes"]) == []
    assert "Not possible" in made["arithmetic"]
    assert rows(made["one-core"])[0][1] == "–"


def test_short_queue_is_compared_with_the_default() -> None:
    assert rows(blocks(FOUND, ASSUMED)["guard"]) == [
        ["50.0", "40.0", "30.0", "0.0%", "50.0", "50.0"],
        ["100", "400", "45.0", "25.0%", "100", "75.0"],
    ]


def test_workers_compared() -> None:
    told = "2 workers score up to 1.50 × as many crops, with the knee at 1.50 × the rate, in 2.00 × the memory."
    assert blocks(FOUND, ASSUMED)["workers"] == f"- final_best in fp32, one JPEG: {told}\n"


def test_late_generator_is_reported() -> None:
    assert "at every rate" in blocks(FOUND, ASSUMED)["circumstances"]
    late = replace(FOUND, curves=[curve("final_best", [replace(point(10), lag_ms=99)])])
    assert "At 1 rates the load generator itself was more than 20 ms late" in blocks(late, ASSUMED)["circumstances"]


def test_only_text_between_markers_is_regenerated() -> None:
    document = "before\n<!-- measured: guard -->\nold\n<!-- end -->\nafter\n"
    filled = fill(document, FOUND, ASSUMED)
    assert filled.startswith("before\n<!-- measured: guard -->\n\n| Offered")
    assert filled.endswith("|\n\n<!-- end -->\nafter\n")
    assert fill(filled, FOUND, ASSUMED) == filled
    with pytest.raises(KeyError):
        fill(document.replace("guard", "nonsense"), FOUND, ASSUMED)


def test_report_has_every_rate() -> None:
    text = report(FOUND, ASSUMED)
    assert text.count("\n## ") == len(FOUND.curves)
    assert "EYESTATE_QUEUE=2" in text


def test_plot(tmp_path: Path) -> None:
    draw(FOUND.curves[:3], FOUND.limits, tmp_path / "images" / "plot.svg")
    texts = read_svg(tmp_path / "images" / "plot.svg").texts
    for label in ("final_best in fp32, one core", "small in fp32, one core", "256 packed crops per request", "p99, ms"):
        assert label in texts


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, None), (0, "0"), (0.01234, "0.0123"), (1.5, "1.50"), (99.94, "99.9"), (123.4, "123"), (98_765.4, "98,765")],
)
def test_number(value: float | None, text: str | None) -> None:
    assert number(value) == text


class TestRepository:
    """The committed document and report agree."""

    FOUND = TypeAdapter(Measurement).validate_json((PROJECT / REPORTS / "capacity.json").read_bytes())

    def test_document_matches_the_report(self) -> None:
        text = DOCUMENT.read_text()
        assert fill(text, self.FOUND, ASSUMED) == text
        named = set(re.findall(r"<!-- measured: ([a-z-]+) -->", text))
        assert named == set(blocks(self.FOUND, ASSUMED))

    def test_report_page_and_plot(self, tmp_path: Path) -> None:
        assert (PROJECT / REPORTS / "capacity.md").read_text() == report(self.FOUND, ASSUMED)
        draw(self.FOUND.pinned, self.FOUND.limits, tmp_path / "plot.svg")
        drawn, committed = read_svg(tmp_path / "plot.svg"), read_svg(PLOT)
        assert drawn.texts == committed.texts
        np.testing.assert_allclose(drawn.coordinates, committed.coordinates, atol=0.1)
