"""The commands by which networks label crops: their scores, pseudo-labels, self-training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from training.commands.options import (
    File,
    Folder,
    answers_option,
    crops_option,
    mrl_option,
    settings_options,
    share_option,
    start_option,
)
from training.data.labels import BUDGET, read_all_answers, read_answers, read_beliefs, read_labels, write_labels
from training.data.split import fine_tuning_split, read_pool
from training.labelling.pseudo_label import pseudo_labels, queue, write_queue
from training.labelling.self_train import self_train
from training.models.classifier import load_classifier, predict_views
from training.models.fine_tuning import fine_tuning_settings
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


@click.command("self-train")
@crops_option
@mrl_option
@click.option(
    "--beliefs",
    type=File,
    default=Path("runs/kaggle_model/scores.csv"),
    show_default=True,
    help="CSV of P(open) to start from, by networks that were not trained on these crops.",
)
@answers_option
@start_option
@settings_options
@share_option
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--budget", type=click.IntRange(0, BUDGET), default=0, show_default=True, help="How many crops to queue at most."
)
@click.option("--asked", type=File, multiple=True, help="Answers or queues of crops not to queue again.")
@click.option("--output", type=Folder, required=True, help="Folder for the networks, their beliefs and the queue.")
def self_train_command(
    *,
    crops: Path,
    mrl: Path,
    beliefs: Path,
    answers: tuple[Path, ...],
    start: Path,
    rounds: int,
    budget: int,
    asked: tuple[Path, ...],
    output: Path,
    **chosen: float,
) -> None:
    """Label crops by cross-fitted self-training: no network labels what it was trained on.

    What is still in doubt afterwards can be queued for a person, the most doubtful first.
    """
    verdicts = self_train(
        fine_tuning_split(mrl),
        read_pool(crops),
        output,
        beliefs=read_beliefs(beliefs),
        answers=read_all_answers(answers),
        settings=fine_tuning_settings(start, **chosen),
        start=start,
        rounds=rounds,
    )
    known = {file for path in asked for file in read_answers(path)}
    echo_counts(write_queue(verdicts, queue(verdicts, budget, known), output))


def echo_counts(counts: Mapping[str, int]) -> None:
    """Print how many crops are trusted, in doubt and queued."""
    click.echo(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
