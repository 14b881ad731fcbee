"""Plots for reports: training curves and what a data set is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.data.datasets import ATTRIBUTES, CLOSED, OPEN, Crop, count, values

COLOURS = {"train": "tab:orange", "val": "tab:blue"}
SHOWN = ("subject", *ATTRIBUTES)


def plot_history(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw loss and EER per epoch, training and validation, into a PNG; the best epoch is marked."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss, eer = figure.subplots(1, 2)
    epochs = [row["epoch"] + 1 for row in history]
    for axes, name, label in ((loss, "loss", "cross-entropy"), (eer, "eer", "equal error rate")):
        for part in ("train", "val"):
            axes.plot(epochs, [row[f"{part}_{name}"] for row in history], "o-", color=COLOURS[part], label=part)
        axes.set(xlabel="epoch", ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
    best = min(history, key=lambda row: row["val_eer"])
    eer.annotate(
        f"best {best['val_eer']:.4f}",
        (best["epoch"] + 1, best["val_eer"]),
        xytext=(0, 25),
        textcoords="offset points",
        arrowprops={"arrowstyle": "->"},
        ha="center",
    )
    loss.legend()
    loss.set_title("loss")
    eer.set_title("EER (training crops are augmented, validation crops are not)", fontsize="medium")
    save(figure, path)


def plot_counts(crops: Sequence[Crop], path: Path) -> None:
    """Draw the crops by subject and attribute, open and closed stacked, into a PNG."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    grid = figure.add_gridspec(2, len(ATTRIBUTES))
    for attribute in SHOWN:
        cell = grid[0, :] if attribute == "subject" else grid[1, SHOWN.index(attribute) - 1]
        _bars(figure.add_subplot(cell), crops, attribute)
    figure.axes[0].legend()
    save(figure, path)


def _bars(axes: Axes, crops: Sequence[Crop], attribute: str) -> None:
    counts = count(crops, attribute)
    words = values(crops, attribute)
    closed = [counts[word, CLOSED] for word in words]
    axes.bar(words, closed, label="closed", color="tab:gray")
    axes.bar(words, [counts[word, OPEN] for word in words], bottom=closed, label="open", color="tab:green")
    axes.set_title(attribute)
    axes.tick_params(axis="x", labelrotation=90 if attribute == "subject" else 0)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; equal figures give equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
