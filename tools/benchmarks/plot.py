"""Plot of accuracy against speed."""

from __future__ import annotations

import textwrap
from itertools import cycle
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.benchmarks.accuracy import HELD_OUT, MRL
from tools.benchmarks.candidates import PEERS
from tools.benchmarks.report import Report, Row
from tools.benchmarks.speed import ONNX_RUNTIME, Speed

SHOWN: Final = (HELD_OUT, MRL)
BATCH: Final = 64
_OURS, _THEIRS = "tab:blue", "tab:orange"
_MARKERS: Final = "osD^vP*X"


def draw(report: Report, path: Path) -> bool:
    """Plot EER against crops/s, one column per set, into an SVG; False, and no file, if either was not measured."""
    points = [(row, speed) for row in report.rows if (speed := at_batch(report, row.name))]
    tests = [
        test for test in report.evaluation_sets if test.name in SHOWN and any(test.name in row.eer for row, _ in points)
    ]
    if not tests:
        return False
    with mpl.rc_context({"svg.hashsalt": "benchmarks", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(5.2 * len(tests), 4.2), layout="constrained")
        for axes, test in zip(figure.subplots(1, len(tests), squeeze=False)[0], tests, strict=True):
            for (row, speed), marker in zip(points, cycle(_MARKERS), strict=False):
                if test.name in row.eer:
                    _point(axes, row, speed, test.name, marker)
            axes.set(
                title=textwrap.fill(test.what, 50),
                xscale="log",
                yscale="log",
                xlabel=f"crops/s, {ONNX_RUNTIME}, batch {BATCH}",
                ylabel="EER with its 95 % interval",
            )
            axes.grid(visible=True, which="major", alpha=0.3)
        shown = {
            label: handle
            for axes in figure.axes
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=4, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
    return True


def at_batch(report: Report, name: str) -> Speed | None:
    """The speed shown; for a cascade the one on the mix, since its cost depends on the crops."""
    network = report.by_batch(name, ONNX_RUNTIME).get(BATCH)
    return network or report.by_batch(name, ONNX_RUNTIME, mix=True).get(BATCH)


def _point(axes: Axes, row: Row, speed: Speed, test: str, marker: str) -> None:
    eer = row.eer[test]
    colour = _THEIRS if row.name in PEERS else _OURS
    errors = [[eer.value - eer.low], [eer.high - eer.value]]
    axes.errorbar(
        speed.median, eer.value, yerr=errors, fmt=marker, color=colour, capsize=2, elinewidth=0.8, label=row.name
    )
