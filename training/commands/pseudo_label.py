"""The commands by which a network labels crops: its scores, pseudo-labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from training.commands.options import File, Folder, crops_option
from training.data.labels import BUDGET, read_labels, write_labels
from training.data.split import read_pool
from training.labelling.pseudo_label import pseudo_labels, queue, write_queue
from training.models.classifier import load_classifier
from training.models.learner import predict_views
from training.runs import outcome


@click.command("score")
@crops_option
@click.option("--run", type=Folder, default=Path("runs/kaggle_model"), show_default=True, help="A training run.")
@click.option("--output", type=File, help="CSV file of scores.  [default: scores.csv in the run]")
def score_command(crops: Path, run: Path, output: Path | None) -> None:
    """Score the unlabelled crops with a trained network, averaged over four views of each."""
    pool = read_pool(crops)
    write_labels(output or run / "scores.csv", pseudo_labels(pool, predict_views(load_classifier(outcome(run)), pool)))


@click.command("pseudo-label")
@crops_option
@click.option(
    "--run", type=Folder, default=Path("runs/best_1000"), show_default=True, help="Training run of the network to use."
)
@click.option(
    "--known",
    type=File,
    default=Path("runs/consensus/labels.csv"),
    show_default=True,
    help="Crops that have a label already.",
)
@click.option(
    "--budget",
    type=click.IntRange(0, BUDGET),
    default=BUDGET,
    show_default=True,
    help="How many crops to queue at most.",
)
@click.option("--output", type=Folder, default=Path("runs/pseudo_label"), show_default=True)
def pseudo_label_command(crops: Path, run: Path, known: Path, budget: int, output: Path) -> None:
    """Label the other crops that a network is sure of, and queue the rest for a person.

    Sure is a score up to 0.05 or from 0.95. Where more crops are in doubt than the budget allows, those nearest to 0.5
    are queued; the others stay unlabelled.
    """
    settled = {item.file for item in read_labels(known)}
    rest = [crop for crop in read_pool(crops) if crop.name not in settled]
    verdicts = pseudo_labels(rest, predict_views(load_classifier(outcome(run)), rest))
    echo_counts(write_queue(verdicts, queue(verdicts, budget), output))


def echo_counts(counts: Mapping[str, int]) -> None:
    """Print how many crops are trusted, in doubt and queued."""
    click.echo(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
