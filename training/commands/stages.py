"""The commands that turn verdicts of networks and people into the next network."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from sklearn.model_selection import train_test_split

from training.commands.options import File, Folder, crops_option, human_labels_option, mrl_option
from training.data.datasets import FAR_SIDE, DataError, labels_of, load_mrl, shrunk
from training.data.labels import (
    BUDGET,
    apply,
    read_all_answers,
    read_answers,
    read_beliefs,
    read_held_out,
    read_labels,
    write_labels,
)
from training.data.split import Split, fine_tuning_split, read_pool, split_by_subject
from training.evaluation.compare import SCORED, TestSet, compare
from training.evaluation.intervals import bootstrap_eer
from training.labelling.pseudo_label import human_labels, merge, pseudo_labels, queue, soft_targets, write_queue
from training.labelling.self_train import self_train
from training.models.classifier import Settings, load_classifier, predict_views, train
from training.models.learner import predict
from training.plots import plot_history
from training.runs import history, outcome

start_option = click.option(
    "--start", type=Folder, default=Path("runs/kaggle_model"), show_default=True, help="The run to fine-tune."
)
answers_option = click.option(
    "--answers", type=File, multiple=True, help="What people said (`python -m training label`); repeatable."
)
epochs_option = click.option("--epochs", type=click.IntRange(min=1), default=4, show_default=True)
draws_option = click.option(
    "--crops-per-epoch", type=click.IntRange(min=Settings().batch_size), default=16_384, show_default=True
)
rate_option = click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=2e-4,
    show_default=True,
    help="Peak of the one-cycle schedule.",
)
decay_option = click.option(
    "--average-decay",
    type=click.FloatRange(min=0, max=1, max_open=True),
    default=0.99,
    show_default=True,
    help="Of the moving average of the weights, per step.",
)
share_option = click.option(
    "--own-share",
    type=click.FloatRange(min=0, max=1),
    default=0.5,
    show_default=True,
    help="Share of the draws that are crops of the unlabelled set; the others are MRL's.",
)
seed_option = click.option("--seed", type=int, default=0, show_default=True)


def settings_options(command: Any) -> Any:
    """The options that make up ``Settings`` for a fine-tuning."""
    for option in (seed_option, decay_option, rate_option, draws_option, epochs_option):
        command = option(command)
    return command


def fine_tuning(start: Path, **chosen: float) -> Settings:
    """The settings of ``start``'s network, trained to the end of a schedule of its own."""
    return dataclasses.replace(load_classifier(outcome(start)).settings, patience=0, **chosen)  # type: ignore[arg-type]


@click.command("score")
@crops_option
@click.option("--run", type=Folder, default=Path("runs/kaggle_model"), show_default=True, help="A training run.")
@click.option("--output", type=File, help="CSV of verdicts.  [default: scores.csv in the run]")
def score(crops: Path, run: Path, output: Path | None) -> None:
    """Let a trained network say what it believes of the unlabelled crops, averaged over four views of each."""
    pool = read_pool(crops)
    write_labels(output or run / "scores.csv", pseudo_labels(pool, predict_views(load_classifier(outcome(run)), pool)))


@click.command("fine-tune")
@crops_option
@click.option("--labels", type=File, multiple=True, required=True, help="Labels of the crops; later files win.")
@answers_option
@start_option
@settings_options
@click.option(
    "--test-share",
    type=click.FloatRange(min=0.05, max=0.5),
    default=0.2,
    show_default=True,
    help="Share of the labelled crops, at random, that the network is tested on instead.",
)
@click.option("--output", type=Folder, required=True, help="The run's folder.")
def fine_tune(
    *,
    crops: Path,
    labels: tuple[Path, ...],
    answers: tuple[Path, ...],
    start: Path,
    test_share: float,
    output: Path,
    **chosen: float,
) -> None:
    """Fine-tune a network on labelled crops of the own kind alone, as the report does.

    The test part is a random share of the same labels, whoever gave them: it says how well the network repeats them,
    not how right they are. `python -m training report` judges by people's answers.
    """
    known = merge(*map(read_labels, labels), human_labels(read_all_answers(answers).values()))
    labelled = apply(read_pool(crops), known)
    try:
        train_part, test = train_test_split(
            labelled, test_size=test_share, stratify=[crop.label for crop in labelled], random_state=0
        )
    except ValueError as error:
        raise DataError(f"cannot divide {len(labelled)} labelled crops into train and test: {error}") from None
    trained = train(Split(train_part, test, []), fine_tuning(start, **chosen), output, start=start)
    plot_history(history(output), output / "curves.png")
    truth = labels_of(test)
    eers = {
        name: dataclasses.asdict(bootstrap_eer(predict(load_classifier(checkpoint), test), truth))
        for name, checkpoint in (("eer", trained), ("eer_before", outcome(start)))
    }
    sources = Counter(item.source for item in known)
    result = {"train": len(train_part), "test": len(test), "sources": sources, **eers}
    (output / "own_test.json").write_text(json.dumps(result, indent=2) + "\n")
    click.echo(f"EER on {len(test)} test crops: {eers['eer']['value']:.4f}, before {eers['eer_before']['value']:.4f}")


@click.command("compare")
@crops_option
@mrl_option
@human_labels_option
@click.option("--runs", type=Folder, default=Path("runs"), show_default=True)
@click.option("--output", type=Folder, default=Path("runs/compare"), show_default=True)
def compare_command(crops: Path, mrl: Path, human_labels: Path, runs: Path, output: Path) -> None:
    """Compare all networks on crops that none of them learnt from: held-out ones, and MRL's test subjects.

    This is the last comparison: nothing may be chosen by what it says.
    """
    subjects = split_by_subject(load_mrl(mrl).crops).test[::SCORED]
    held_out = read_held_out(crops, human_labels)
    tests = [
        TestSet("held_out", "held-out crops of the unlabelled set on which two or more people agree", held_out),
        TestSet("mrl_test", f"MRL test subjects, one crop in {SCORED}", subjects),
        TestSet("mrl_test_far", f"the same, shrunk to {FAR_SIDE} px", [shrunk(crop) for crop in subjects]),
    ]
    for attempt in compare([test for test in tests if test.crops], runs, output):
        figures = ", ".join(f"{name} {eer['value']:.4f}" for name, eer in attempt["eer"].items()) or "not run"
        click.echo(f"{attempt['name']}: {figures}")


@click.command("pseudo-label")
@crops_option
@click.option("--run", type=Folder, default=Path("runs/best_1000"), show_default=True, help="The network to ask.")
@click.option(
    "--known",
    type=File,
    default=Path("runs/consensus/labels.csv"),
    show_default=True,
    help="Crops that have a label already.",
)
@click.option("--budget", type=click.IntRange(0, BUDGET), default=BUDGET, show_default=True, help="Most crops to ask.")
@click.option("--output", type=Folder, default=Path("runs/pseudo_label"), show_default=True)
def pseudo_label(crops: Path, run: Path, known: Path, budget: int, output: Path) -> None:
    """Label the rest of the crops where a network is sure (up to 0.05, from 0.95), and queue the others for a person.

    Where more crops are in doubt than the budget allows, those nearest to 0.5 are asked; the others stay unlabelled.
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
    help="What to start from: verdicts of networks that were not trained on these crops.",
)
@answers_option
@start_option
@settings_options
@share_option
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--budget", type=click.IntRange(0, BUDGET), default=0, show_default=True, help="Most crops to queue.")
@click.option(
    "--asked", type=File, multiple=True, help="Answers or queues of crops that are not to be asked about again."
)
@click.option("--output", type=Folder, required=True, help="The folder of the networks, the beliefs and the queue.")
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
    """Let networks teach each other the unlabelled crops, none of them crops it was trained on.

    What is still in doubt afterwards can be queued for a person, the most doubtful first.
    """
    verdicts = self_train(
        fine_tuning_split(mrl),
        read_pool(crops),
        output,
        beliefs=read_beliefs(beliefs),
        answers=read_all_answers(answers),
        settings=fine_tuning(start, **chosen),
        start=start,
        rounds=rounds,
    )
    known = {file for path in asked for file in read_answers(path)}
    echo_counts(write_queue(verdicts, queue(verdicts, budget, known), output))


@click.command("mix")
@crops_option
@mrl_option
@click.option("--beliefs", type=File, required=True, help="Verdicts of networks that were not trained on these crops.")
@answers_option
@start_option
@settings_options
@share_option
@click.option("--output", type=Folder, default=Path("runs/final_best"), show_default=True)
def mix(
    *,
    crops: Path,
    mrl: Path,
    beliefs: Path,
    answers: tuple[Path, ...],
    start: Path,
    output: Path,
    **chosen: float,
) -> None:
    """Fine-tune a network on all unlabelled crops, towards what is believed and what people said, mixed with MRL."""
    labelled = fine_tuning_split(mrl)
    targeted = soft_targets(read_pool(crops), read_beliefs(beliefs), read_all_answers(answers))
    train(
        Split([*labelled.train, *targeted], labelled.val, []),
        fine_tuning(start, **chosen),
        output,
        start=start,
    )
    plot_history(history(output), output / "curves.png")


def echo_counts(counts: Mapping[str, int]) -> None:
    """Print how many crops are trusted, in doubt and queued."""
    click.echo(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
