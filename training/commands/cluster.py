"""The commands that label crops by clusterings: features, clusterings, consensus."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import numpy as np
import optuna
from rich.console import Console

from training.commands.options import File, Folder, backbone_option, crops_option
from training.data.datasets import DataError, data_dir
from training.data.labels import Answer, read_answers, read_scores, write_labels
from training.data.split import read_pool
from training.files import read_arrays, read_json, write_arrays, write_json
from training.labelling import consensus
from training.labelling.cluster import (
    ALGORITHMS,
    Space,
    appearance,
    by_default,
    maps,
    mark_good,
    not_measured,
    row,
    tune,
)
from training.labelling.cluster_plots import MAPS, SIDES, Panel, draw_best, plot_maps, plot_study, table
from training.labelling.features import MEASURED, extract_all, extractors, load_features
from training.runs import claim
from training.studies import open_studies

features_option = click.option(
    "--features",
    "features_folder",
    type=Folder,
    default=Path("runs/features"),
    show_default=True,
    help="Folder made by `features`.",
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
    """Extract features of the unlabelled crops with dlib's face network, VGG-Face and FaceNet."""
    for entry in extract_all(extractors(weights, backbone), read_pool(crops), output):
        if entry["status"] == MEASURED:
            click.echo(f"{entry['name']}: {entry['crops']:,} × {entry['dimensions']:,}, {entry['seconds']:,} s")
        else:
            click.echo(f"{entry['name']}: {entry['status']}: {entry['reason']}")


@click.command("cluster")
@crops_option
@features_option
@scores_option
@click.option("--trials", type=click.IntRange(min=1), default=40, show_default=True, help="Trials of each search.")
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
    """Cluster each feature set by four algorithms, default and tuned, and mark the good clusterings."""
    found, entries = load_features(features_folder)
    pool = read_pool(crops)
    files = [crop.name for crop in pool]
    if any(item.files != files for item in found.values()):
        raise DataError(f"{features_folder} is of other crops; give `python -m training features` again")
    scores = read_scores(scores_file, files)
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


@click.command("consensus")
@features_option
@scores_option
@click.option(
    "--clusters", type=Folder, default=Path("runs/cluster"), show_default=True, help="Folder made by `cluster`."
)
@click.option(
    "--answers",
    type=File,
    default=lambda: data_dir() / "human-labels.csv",
    show_default="$EYESTATE_DATA/human-labels.csv, where it exists",
    help="People's answers, to report how accurate the labels are; nothing is chosen by them.",
)
@click.option("--output", type=Folder, default=Path("runs/consensus"), show_default=True)
def consensus_command(features_folder: Path, scores_file: Path, clusters: Path, answers: Path, output: Path) -> None:
    """Label the crops on which all good clusterings agree; also by majority, and if confirmed.

    Confirmed are labels that kaggle_model, which was not trained on these crops, is sure of too.
    """
    rows: list[dict[str, Any]] = read_json(clusters / "clusterings.json", "cluster")
    assignments = read_arrays(clusters / "assignments.npz", "cluster")
    places = read_arrays(clusters / "maps.npz", "cluster")
    found, _ = load_features(features_folder)
    files = assignments["files"].tolist()
    if any(item.files != files for item in found.values()):
        raise DataError(f"{clusters} is of other crops; give `python -m training cluster` again")
    scores = read_scores(scores_file, files)
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
