"""Plot of the capacity curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtests.capacity.measure import Curve, RequestKind

LABELS: Final[dict[RequestKind, str]] = {"single": "one JPEG per request", "packed": "{crops} packed crops per request"}
COLOURS: Final[dict[RequestKind, str]] = {"single": "tab:blue", "packed": "tab:orange"}


def draw(curves: Sequence[Curve], limits: dict[RequestKind, float], path: Path) -> None:
    """Throughput and p99 against the offered load: a column per model and precision, a line per kind of request."""
    titles = list(dict.fromkeys(curve.title for curve in curves))
    with mpl.rc_context({"svg.hashsalt": "capacity", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(5 * len(titles), 6.5), layout="constrained")
        axes = figure.subplots(2, len(titles), squeeze=False, sharex="col")
        for column, title in enumerate(titles):
            for curve in curves:
                if curve.title == title:
                    _line(axes[0, column], axes[1, column], curve, limits[curve.kind])
            _label(axes[0, column], axes[1, column], title)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def _line(throughput: Axes, latency: Axes, curve: Curve, limit: float) -> None:
    colour, label = COLOURS[curve.kind], LABELS[curve.kind].format(crops=curve.crops)
    offered = [point.offered * curve.crops for point in curve.points]
    throughput.plot(offered, [point.crops_per_second for point in curve.points], "o-", color=colour, label=label)
    slow = [(rate, point.p99_ms) for rate, point in zip(offered, curve.points, strict=True) if point.p99_ms]
    latency.plot(*zip(*slow, strict=True), "o-", color=colour, label=label)
    latency.axhline(limit, color=colour, linestyle=":", linewidth=1)
    if knee := curve.knee(limit):
        for axes in (throughput, latency):
            axes.axvline(knee.offered * curve.crops, color=colour, linestyle="--", linewidth=1)


def _label(throughput: Axes, latency: Axes, title: str) -> None:
    end = max(throughput.get_xlim()[1], throughput.get_ylim()[1])
    throughput.plot([0, end], [0, end], color="lightgrey", zorder=0, label="all offered crops")
    throughput.set(title=f"{title}, one core", ylabel="answered, crops/s", xlim=(0, None), ylim=(0, None))
    throughput.legend()
    latency.set(yscale="log", xlabel="offered, crops/s", ylabel="p99, ms")
    latency.grid(visible=True, which="major", alpha=0.3)
