"""Clusterings for people: a table, samples by cluster, maps, and how the search for parameters went."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import optuna
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.visualization import matplotlib as study_plots
from rich.table import Table

from eyestate.arrays import Pixels
from eyestate.images import decode, to_input
from training.data.datasets import CLOSED, FAR_SIDE, OPEN, Crop
from training.labelling.cluster import NOISE, Clustering, Clusters, Points, best
from training.labelling.features import MEASURED
from training.plots import save

MAPS: Final = {"pca": "PCA", "tsne": "t-SNE"}
SAMPLES: Final = 40  # crops shown of each cluster
PER_ROW: Final = 20
GAP: Final = 2  # pixels between crops
SIDES: Final = {CLOSED: ("closed", "tab:gray"), OPEN: ("open", "tab:green"), NOISE: ("undecided", "tab:orange")}


@dataclass(frozen=True, slots=True)
class Panel:
    """A map of crops: places (N, 2), groups (N,), and of each group its name and colour."""

    title: str
    places: Points
    groups: Clusters
    legend: Mapping[int, tuple[str, str]]


def cluster_legend(clusters: Clusters) -> dict[int, tuple[str, str]]:
    """Name and colour of each cluster, with its size."""
    return {
        int(cluster): (
            f"{'noise' if cluster == NOISE else f'cluster {cluster}'}: {np.sum(clusters == cluster):,}",
            "lightgray" if cluster == NOISE else f"C{cluster % 10}",
        )
        for cluster in np.unique(clusters)
    }


def plot_maps(panels: Sequence[Panel], path: Path) -> None:
    """Draw maps, two in a row, into a PNG that shows no crop."""
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(11, 5 * rows), layout="constrained")
    for panel, axes in zip(panels, figure.subplots(rows, 2, squeeze=False).flat, strict=True):
        for group, (name, colour) in panel.legend.items():
            x, y = panel.places[panel.groups == group].T
            axes.scatter(x, y, s=4, color=colour, label=name, linewidths=0)
        axes.set_title(panel.title, fontsize="medium")
        axes.set(xticks=[], yticks=[])
        axes.legend(markerscale=3, fontsize="small")
    save(figure, path)


def plot_samples(crops: Sequence[Crop], clusters: Clusters, title: str, path: Path) -> None:
    """Draw up to ``SAMPLES`` crops of each cluster, the same at every run, into a PNG. It shows the data: keep it."""
    groups = [int(cluster) for cluster in np.unique(clusters)]
    figure = Figure(figsize=(12, 1 + 1.5 * len(groups)), layout="constrained")
    figure.suptitle(title)
    legend = cluster_legend(clusters)
    for group, axes in zip(groups, figure.subplots(len(groups), 1, squeeze=False).flat, strict=True):
        members = np.flatnonzero(clusters == group)
        drawn = np.sort(np.random.default_rng(0).permutation(members)[:SAMPLES])
        axes.imshow(_montage([to_input(decode(crops[i].data), FAR_SIDE) for i in drawn]), cmap="gray", vmin=0, vmax=255)
        axes.set_title(legend[group][0], fontsize="medium", loc="left")
        axes.axis("off")
    save(figure, path)


def plot_study(study: optuna.Study, folder: Path) -> None:
    """Draw a study's history, its slices and, where values differ, what mattered, into PNGs named after it.

    Trials that were not admissible lie below the frame.
    """
    values = sorted({trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None})
    drawings: dict[str, Callable[[optuna.Study], object]] = {
        "history": study_plots.plot_optimization_history,
        "slice": study_plots.plot_slice,
    }
    if len(values) > 1:
        drawings["importances"] = study_plots.plot_param_importances
    shown = [value for value in values if value >= -1]
    for name, draw in drawings.items():
        with warnings.catch_warnings(), plt.rc_context():  # Optuna leaves its style behind
            warnings.simplefilter("ignore", ExperimentalWarning)  # Optuna's word for all of its matplotlib plots
            warnings.filterwarnings("ignore", "Attempting to set identical low and high")  # one value in a slice
            draw(study)
            figure = plt.gcf()
            figure.suptitle(study.study_name)
            if shown and name != "importances":
                margin = max(0.1 * (shown[-1] - shown[0]), 0.01)
                figure.axes[0].set_ylim(shown[0] - margin, shown[-1] + margin)
            for axes in figure.axes if name == "slice" else ():
                axes.tick_params(axis="x", labelrotation=30)
                figure.subplots_adjust(bottom=0.25)
            save(figure, folder / f"{study.study_name}-{name}.png")
            plt.close(figure)


def _montage(crops: Sequence[Pixels]) -> Pixels:
    """Crops (24, 24) side by side, white between them."""
    step = FAR_SIDE + GAP
    sheet = np.full((step * -(-len(crops) // PER_ROW), step * PER_ROW), 255, dtype=np.uint8)
    for number, crop in enumerate(crops):
        y, x = divmod(number, PER_ROW)
        sheet[y * step : y * step + FAR_SIDE, x * step : x * step + FAR_SIDE] = crop
    return sheet


def draw_best(
    rows: Sequence[Mapping[str, Any]],
    clusterings: Sequence[Clustering],
    places: Mapping[str, Points],
    pool: Sequence[Crop],
    output: Path,
) -> None:
    """Figures 1 and 2: of each feature set's best clustering, samples by cluster and two maps."""
    panels = []
    for feature in dict.fromkeys(item.feature for item in clusterings):
        shown = next(item for item in clusterings if item.name == best(rows, feature))
        title = f"{feature}, {shown.algorithm} {'tuned' if shown.tuned else 'default'}"
        if shown.silhouette is not None:
            title += f", silhouette {shown.silhouette:.3f}"
        plot_samples(pool, shown.clusters, title, output / f"samples-{feature}.png")
        panels += [
            Panel(f"{title}: {name}", places[f"{feature}-{key}"], shown.clusters, cluster_legend(shown.clusters))
            for key, name in MAPS.items()
        ]
    plot_maps(panels, output / "maps.png")


def table(rows: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]) -> Table:
    """Table 1 and its tuned counterpart for the terminal."""
    result = Table("features", "algorithm", "silhouette", "clusters", "noise", "follows", "good")
    for item in rows:
        result.add_row(
            item["feature"],
            f"{item['algorithm']}{', tuned' if item['tuned'] else ''}",
            "–" if item["silhouette"] is None else f"{item['silhouette']:.4f}",
            " + ".join(map(str, item["sizes"])) if len(item["sizes"]) <= 6 else str(item["n_clusters"]),
            f"{item['noise']:.0%}",
            item["follows"],
            item["why_not"] or "yes",
        )
    for entry in entries:
        if entry["status"] != MEASURED:
            result.add_row(entry["name"], "all", *["–"] * 4, entry["status"])
    return result
