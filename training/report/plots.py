"""The report's own plots, as PNG bytes; none shows a crop."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from training.data.datasets import CLOSED, OPEN
from training.evaluation.eer import error_rates
from training.evaluation.intervals import Interval
from training.evaluation.reliability import Bin
from training.plots import plot_history
from training.report.outputs import Scored

FLOOR = 1e-3  # error rates below are drawn there: an axis of logarithms has no zero
COLOURS = ("tab:gray", "tab:orange", "tab:green", "tab:blue", "tab:purple", "tab:brown", "tab:pink", "tab:olive")
BESIDE: Final = 4  # panels of dots in a row


@dataclass(frozen=True, slots=True)
class Dots:
    """A panel of dots with their intervals by name; ``target`` is drawn as a line."""

    title: str
    values: Mapping[str, Interval]
    target: float | None = None


def plot_dots(panels: Sequence[Dots], label: str) -> bytes:
    """Dots and intervals, a line for each name in the order of the first panel, from top to bottom."""
    names = list(panels[0].values)
    across = min(len(panels), BESIDE)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(3.6 * across + 2.4, (0.36 * len(names) + 1.4) * down), layout="constrained")
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for panel, axes in zip(panels, grid.flat, strict=False):
        for name, value in panel.values.items():
            row = names.index(name)
            axes.plot([value.low, value.high], [row, row], color="tab:blue", alpha=0.5, linewidth=3)
            axes.plot(value.value, row, "o", color="tab:blue")
        if panel.target is not None:
            axes.axvline(panel.target, color="tab:red", linestyle="--", linewidth=1, label=f"target {panel.target:g}")
            axes.legend(fontsize="small")
        axes.set_title(panel.title, fontsize="medium")
        axes.set(xlabel=label, yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
        axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def plot_reliability(panels: Mapping[str, Sequence[Bin]]) -> bytes:
    """Share of open eyes against score, a panel for each test; the diagonal is where a score is a probability."""
    figure = Figure(figsize=(4.2 * len(panels), 4.2), layout="constrained")
    for (title, bins), axes in zip(panels.items(), figure.subplots(1, len(panels), squeeze=False).flat, strict=True):
        scores = [item.score for item in bins]
        shares = [item.open.value for item in bins]
        reach = [
            [item.open.value - item.open.low for item in bins],
            [item.open.high - item.open.value for item in bins],
        ]
        axes.plot([0, 1], [0, 1], color="tab:gray", linestyle="--", linewidth=1)
        axes.errorbar(scores, shares, yerr=reach, fmt="o", capsize=3, color="tab:blue")
        axes.set_title(title, fontsize="medium")
        axes.set(xlabel="mean score of the bin", ylabel="share of open eyes", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.set_aspect("equal")
        axes.grid(alpha=0.3)
    return _png(figure)


def plot_trade_off(tests: Mapping[str, Mapping[str, Scored]]) -> bytes:
    """False rejection against false acceptance of each attempt, a panel for each test (DET curves)."""
    figure = Figure(figsize=(5 * len(tests), 4.6), layout="constrained")
    for (title, attempts), axes in zip(tests.items(), figure.subplots(1, len(tests), squeeze=False).flat, strict=True):
        for (name, scored), colour in zip(attempts.items(), COLOURS, strict=False):
            rates = error_rates(scored.scores, scored.labels)
            axes.step(
                rates.far.clip(FLOOR), rates.frr.clip(FLOOR), where="post", label=name, color=colour, linewidth=1.4
            )
        axes.plot([FLOOR, 1], [FLOOR, 1], color="tab:gray", linestyle="--", linewidth=0.8)
        axes.set_title(title, fontsize="medium")
        axes.set(
            xscale="log", yscale="log", xlim=(FLOOR, 0.5), ylim=(FLOOR, 0.5),
            xlabel="closed eyes taken for open (FAR)", ylabel="open eyes taken for closed (FRR)",
        )  # fmt: skip
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small", loc="upper right")
    return _png(figure)


def plot_scores(tests: Mapping[str, Scored]) -> bytes:
    """How many open and closed eyes have which score, a panel for each test; counts are logarithmic."""
    figure = Figure(figsize=(5 * len(tests), 3.4), layout="constrained")
    for (title, scored), axes in zip(tests.items(), figure.subplots(1, len(tests), squeeze=False).flat, strict=True):
        for label, name, colour in ((CLOSED, "closed", "tab:gray"), (OPEN, "open", "tab:green")):
            chosen = scored.scores[scored.labels == label]
            axes.hist(chosen, bins=np.linspace(0, 1, 41).tolist(), alpha=0.6, label=name, color=colour)
        axes.set_title(title, fontsize="medium")
        axes.set(xlabel="score, P(open)", ylabel="crops", yscale="log")
        axes.legend()
    return _png(figure)


def plot_training(history: Sequence[Mapping[str, float]]) -> bytes:
    """Loss and EER by epoch, as ``plot_history`` draws them."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "curves.png"
        plot_history(history, path)
        return path.read_bytes()


def _png(figure: Figure) -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    return file.getvalue()
