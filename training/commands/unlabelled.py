"""The commands that label crops by clusterings: features, clusterings, consensus."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from training.commands.options import File, Folder, backbone_option, crops_option
from training.data.datasets import Crop, DataError, data_dir
from training.data.labels import Answer, read_answers, read_beliefs, write_labels
from training.data.split import read_pool
from training.evaluation.eer import Scores
from training.files import read_arrays, read_json, write_arrays, write_json
from training.labelling import consensus
from training.labelling.cluster import (
    ALGORITHMS,
    Clustering,
    Points,
    Space,
    appearance,
    by_default,
    maps,
    mark_good,
    row,
    tune,
)
from training.labelling.cluster_plots import SIDES, Panel, cluster_legend, plot_maps, plot_samples, plot_study
from training.labelling.features import MEASURED, extract_all, extractors, load_features
from training.runs import claim
from training.studies import open_studies

MAPS: Final = {"pca": "PCA", "tsne": "t-SNE"}

features_option = click.option(
    "--features",
    "features_folder",
    type=Folder,
    default=Path("runs/features"),
    show_default=True,
    help="Of `features`.",
)
scores_option = click.option(
    "--scores",
    "scores_file",
    type=File,
    default=Path("runs/kaggle_model/scores.csv"),
    show_default=True,
    help="P(open) of each crop by a network that was not trained on these crops (`python -m training score`).",
)


@click.command("features")
@crops_option
@backbone_option
@click.option(
    "--weights",
    type=Folder,
    default=lambda: Path(os.environ.get("DEEPFACE_HOME", Path.home())) / ".deepface" / "weights",
    show_default="$DEEPFACE_HOME/.deepface/weights",
    help="Folder that holds deepface's vgg_face_weights.pth (580 MB). Without it VGG-Face is left out.",
)
@click.option("--output", type=Folder, default=Path("runs/features"), show_default=True)
def features_command(crops: Path, backbone: str, weights: Path, output: Path) -> None:
    """Let dlib's face network, VGG-Face and FaceNet describe the unlabelled crops."""
    for entry in extract_all(extractors(weights, backbone), read_pool(crops), output):
        if entry["status"] == MEASURED:
            click.echo(f"{entry['name']}: {entry['crops']:,} × {entry['dimensions']:,}, {entry['seconds']:,} s")
        else:
            click.echo(f"{entry['name']}: {entry['status']}: {entry['reason']}")


@click.command("cluster")
@crops_option
@features_option
@scores_option
@click.option("--trials", type=click.IntRange(min=1), default=40, show_default=True, help="Of each search.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--within",
    type=click.FloatRange(min=0, max=1),
    default=0.5,
    show_default=True,
    help="A good clustering's silhouette is at least this share of the best good one's on the same features.",
)
@click.option("--output", type=Folder, default=Path("runs/cluster"), show_default=True)
def cluster_command(
    *, crops: Path, features_folder: Path, scores_file: Path, trials: int, seed: int, within: float, output: Path
) -> None:
    """Cluster each feature set by four algorithms, as they come and tuned, and say which clusterings are good."""
    found, entries = load_features(features_folder)
    pool = read_pool(crops)
    files = [crop.name for crop in pool]
    if any(item.files != files for item in found.values()):
        raise DataError(f"{features_folder} is of other crops; give `python -m training features` again")
    scores = of_crops(files, scores_file)
    claim(output, {"features": {name: item.recipe for name, item in found.items()}, "seed": seed})

    spaces = [Space(name, item.values, seed) for name, item in found.items()]
    clusterings = [by_default(space, algorithm) for space in spaces for algorithm in ALGORITHMS]
    with open_studies(output / "optuna.db") as storage:
        for space in spaces:
            for algorithm in ALGORITHMS:
                study = optuna.create_study(
                    storage=storage,
                    study_name=f"{space.feature}-{algorithm}",
                    direction="maximize",
                    load_if_exists=True,
                )
                clusterings.append(tune(space, algorithm, study, trials))
                plot_study(study, output / "plots")

    appearances = appearance(pool)
    rows = mark_good([row(item, scores, appearances) for item in clusterings], within)
    places = {f"{space.feature}-{name}": where for space in spaces for name, where in maps(space).items()}
    write_arrays(
        output / "assignments.npz",
        files=files,
        **{item.name: item.clusters for item in clusterings},
    )
    write_arrays(output / "maps.npz", **places)
    write_json(output / "clusterings.json", [*rows, *not_measured(entries)])
    draw_best(rows, clusterings, places, pool, output)
    Console().print(table(rows, entries))


def of_crops(files: Sequence[str], scores_file: Path) -> Scores:
    """P(open) of each crop (N,).

    Raises:
        DataError: the file is missing, or lacks a crop.
    """
    scores = read_beliefs(scores_file)
    missing = [file for file in files if file not in scores]
    if missing:
        raise DataError(
            f"{scores_file} lacks {missing[0]} and {len(missing) - 1} more; give `python -m training score`"
        )
    return np.array([scores[file] for file in files])


def not_measured(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row, marked so, for each clustering that could not be made for want of features."""
    return [
        {
            "name": f"{entry['name']}-{algorithm}-{kind}",
            "feature": entry["name"],
            "algorithm": algorithm,
            "tuned": kind == "tuned",
            "good": False,
            "why_not": entry["status"],
            "sides": None,
        }
        for entry in entries
        if entry["status"] != MEASURED
        for kind in ("default", "tuned")
        for algorithm in ALGORITHMS
    ]


def best(rows: Sequence[Mapping[str, Any]], feature: str) -> str:
    """The name of the clustering to show of a feature set: a good one before others, then by silhouette."""
    of_feature = [item for item in rows if item["feature"] == feature]
    chosen = max(of_feature, key=lambda item: (item["good"], item["admissible"], item["silhouette"] or -1))
    return str(chosen["name"])


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
        title = f"{feature}, {shown.algorithm} {'tuned' if shown.tuned else 'as it comes'}"
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


@click.command("consensus")
@features_option
@scores_option
@click.option("--clusters", type=Folder, default=Path("runs/cluster"), show_default=True, help="Of `cluster`.")
@click.option(
    "--answers",
    type=File,
    default=lambda: data_dir() / "human-labels.csv",
    show_default="$EYESTATE_DATA/human-labels.csv, where it exists",
    help="What people said, to report how right the labels are; nothing is chosen by it.",
)
@click.option("--output", type=Folder, default=Path("runs/consensus"), show_default=True)
def consensus_command(features_folder: Path, scores_file: Path, clusters: Path, answers: Path, output: Path) -> None:
    """Label the crops on which all good clusterings agree; beside it, by majority, and as kaggle_model confirms."""
    rows: list[dict[str, Any]] = read_json(clusters / "clusterings.json", "cluster")
    assignments = read_arrays(clusters / "assignments.npz", "cluster")
    places = read_arrays(clusters / "maps.npz", "cluster")
    found, _ = load_features(features_folder)
    files = assignments["files"].tolist()
    if any(item.files != files for item in found.values()):
        raise DataError(f"{clusters} is of other crops; give `python -m training cluster` again")
    scores = of_crops(files, scores_file)
    asked: dict[str, Answer] | None = read_answers(answers) if answers.exists() else None

    good = consensus.good_votes(rows, assignments)
    votes = np.stack(list(good.values()))
    shares = consensus.vote_shares(votes)
    spaces = [Space(name, item.values, seed=0) for name, item in found.items()]
    metrics: dict[str, Any] = {"crops": len(files), "good": list(good)}
    for name, sides in consensus.variants(votes, scores).items():
        labels = consensus.to_labels(files, sides, shares)
        write_labels(output / f"{name}.csv", labels)
        metrics[name] = consensus.summary(labels, sides, spaces, asked)
        figures = [
            Panel(f"{space.feature}, {title}", places[f"{space.feature}-{key}"], sides, SIDES)
            for space in spaces
            for key, title in MAPS.items()
        ]
        plot_maps(figures, output / f"{name}-maps.png")
        click.echo(f"{name}: {len(labels):,} of {len(files):,} crops keep a label")
    metrics["clusterings"] = {
        name: consensus.summary(consensus.to_labels(files, sides, sides.astype(float)), sides, spaces, asked)
        for name, sides in consensus.named_sides(rows, assignments).items()
    }
    write_json(output / "metrics.json", metrics)
