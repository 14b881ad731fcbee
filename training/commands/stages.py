"""The commands that turn verdicts of networks and people into the next network."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import click
from sklearn.model_selection import train_test_split

from training.commands.options import File, Folder, crops_option, human_labels_option, mrl_option
from training.data.datasets import (
    FAR_SIDE,
    Crop,
    DataError,
    Split,
    hold_out,
    load_crops,
    load_mrl,
    shrunk,
    split_by_subject,
)
from training.data.labels import BUDGET, Answer, Label, apply, read_answers, read_labels, write_labels
from training.evaluation.compare import TestSet, agreed, compare
from training.evaluation.eer import bootstrap_eer
from training.labelling.pseudo_label import human_labels, merge, pseudo_labels, queue, soft_targets
from training.labelling.self_train import self_train
from training.models.classifier import Settings, load_classifier, predict, predict_views, train
from training.plots import plot_history
from training.runs import history, outcome

SCORED = 5  # every so many MRL test crops (video frames, much alike) are scored in the comparison
WATCHED = 6  # every so many MRL validation crops are scored after an epoch of fine-tuning; nothing is chosen by them

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


def read_pool(crops: Path) -> list[Crop]:
    """The crops that may be learnt from."""
    return hold_out(load_crops(crops).crops)[0]


def judged_by_people(crops: Path, human_labels: Path) -> list[Crop]:
    """The held-out crops on which two or more people agree, with that label."""
    return agreed(hold_out(load_crops(crops).crops)[1], read_answers(human_labels))


def all_answers(files: tuple[Path, ...]) -> dict[str, Answer]:
    """What people said, over all files; the budget of questions holds over all of them.

    Raises:
        DataError: people were asked about more than ``BUDGET`` crops.
    """
    answers: dict[str, Answer] = {}
    for file in files:
        answers |= read_answers(file)
    if len(answers) > BUDGET:
        raise DataError(f"people were asked about {len(answers)} crops; the budget is {BUDGET}")
    return answers


def watched(mrl: Path) -> Split:
    """MRL's training subjects, and a sample of its validation subjects."""
    split = split_by_subject(load_mrl(mrl).crops)
    return Split(split.train, split.val[::WATCHED], [])


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
    known = merge(*map(read_labels, labels), human_labels(all_answers(answers).values()))
    labelled = apply(read_pool(crops), known)
    try:
        train_part, test = train_test_split(
            labelled, test_size=test_share, stratify=[crop.label for crop in labelled], random_state=0
        )
    except ValueError as error:
        raise DataError(f"cannot divide {len(labelled)} labelled crops into train and test: {error}") from None
    trained = train(Split(train_part, test, []), fine_tuning(start, **chosen), output, start=start)
    plot_history(history(output), output / "curves.png")
    labels_of = [crop.label or 0 for crop in test]
    eers = {
        name: dataclasses.asdict(bootstrap_eer(predict(load_classifier(checkpoint), test), labels_of))
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
    held_out = judged_by_people(crops, human_labels)
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
    write_queue(verdicts, queue(verdicts, budget), output)


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
        watched(mrl),
        read_pool(crops),
        output,
        beliefs=by_belief(beliefs),
        answers=all_answers(answers),
        settings=fine_tuning(start, **chosen),
        start=start,
        rounds=rounds,
    )
    known = {file for path in asked for file in read_answers(path)}
    write_queue(verdicts, queue(verdicts, budget, known), output)


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
    labelled = watched(mrl)
    targeted = soft_targets(read_pool(crops), by_belief(beliefs), all_answers(answers))
    train(
        Split([*labelled.train, *targeted], labelled.val, []),
        fine_tuning(start, **chosen),
        output,
        start=start,
    )
    plot_history(history(output), output / "curves.png")


def by_belief(path: Path) -> dict[str, float]:
    """P(open) by file.

    Raises:
        DataError: the file is no CSV of labels, or a crop in it has no P(open).
    """
    labels = read_labels(path)
    if any(item.p_open is None for item in labels):
        raise DataError(f"{path} must give p_open of every crop")
    return {item.file: item.p_open for item in labels if item.p_open is not None}


def write_queue(verdicts: list[Label], questions: list[Label], output: Path) -> None:
    """Write the trusted labels, and the questions in their order, and say how many there are of each."""
    trusted = [item for item in verdicts if item.label is not None]
    write_labels(output / "labels.csv", trusted)
    write_labels(output / "queue.csv", questions)
    counts = {"trusted": len(trusted), "in_doubt": len(verdicts) - len(trusted), "queued": len(questions)}
    (output / "counts.json").write_text(json.dumps(counts, indent=2) + "\n")
    click.echo(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
