"""The commands that distil a large network into a small one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Final

import click
import numpy as np

from eyestate.bundle import load_bundle
from training.commands.options import (
    Folder,
    crops_option,
    device_option,
    mrl_option,
    people_option,
    shares_option,
    teacher_option,
)
from training.data.datasets import MRL, Crop, LabelledCrop, read_people, sources
from training.data.folds import Folds, deal
from training.data.split import read_pool
from training.models.distillation_set import write_distillation_set
from training.models.learner import Device
from training.models.student import SIDE, StudentSettings, distil, tune
from training.plots import plot_history
from training.runs import history, write_history

DISTILLATION_SET: Final = Path("runs/distillation_set")
DEFAULT: Final = StudentSettings()

distillation_set_option = click.option(
    "--distillation-set",
    type=Folder,
    default=DISTILLATION_SET,
    show_default=True,
    help="Folder made by `distillation-set`.",
)
report_option = click.option(
    "--report",
    type=Folder,
    default=Path("reports/final_best_lite"),
    show_default=True,
    help="Folder for the tables and figures to commit.",
)
rate_option = click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=DEFAULT.learning_rate,
    show_default=True,
    help="Peak of the one-cycle schedule.",
)


@click.command("distillation-set")
@crops_option
@mrl_option
@people_option
@teacher_option
@shares_option
@click.option("--views", type=click.IntRange(min=1), default=131_072, show_default=True, help="How many views to draw.")
@click.option("--seed", type=int, default=0, show_default=True)
@device_option
@click.option("--output", type=Folder, default=DISTILLATION_SET, show_default=True)
def distillation_set_command(
    *,
    crops: Path,
    mrl: Path,
    people: tuple[Path, ...],
    teacher: Path,
    shares: tuple[tuple[str, float], ...],
    views: int,
    seed: int,
    device: Device,
    output: Path,
) -> None:
    """Draw views of crops, and record the log-odds of a committee's members for a small network."""
    drawn_from, folds = _drawn_from(read_people(mrl, people), crops)
    write_distillation_set(
        drawn_from,
        folds,
        load_bundle(teacher),
        output,
        side=SIDE,
        views_drawn=views,
        shares=dict(shares),
        seed=seed,
        device=device,
    )


@click.command("search-student")
@mrl_option
@people_option
@distillation_set_option
@click.option("--views", type=click.IntRange(min=2 * DEFAULT.batch_size), default=65_536, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--trials", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--output", type=Folder, default=Path("runs/student_search"), show_default=True)
@report_option
def search_student_command(
    *,
    mrl: Path,
    people: tuple[Path, ...],
    distillation_set: Path,
    views: int,
    epochs: int,
    trials: int,
    output: Path,
    report: Path,
) -> None:
    """Search the hyperparameters of a distillation by short ones.

    Learning rate, weight decay, temperature and the weight of the labels.
    """
    settings = dataclasses.replace(DEFAULT, epochs=epochs, average_decay=0.98)
    labelled = read_people(mrl, people)
    best = tune(distillation_set, labelled, settings, output, report / "search.csv", views=views, trials=trials)
    click.echo(json.dumps(best, indent=2))


@click.command("distil")
@crops_option
@mrl_option
@people_option
@distillation_set_option
@click.option("--epochs", type=click.IntRange(min=1), default=DEFAULT.epochs, show_default=True)
@click.option(
    "--fold-epochs",
    type=click.IntRange(min=1),
    default=DEFAULT.fold_epochs,
    show_default=True,
    help="Of the five students that measure what a student says of strangers.",
)
@click.option("--batch-size", type=click.IntRange(min=2), default=DEFAULT.batch_size, show_default=True)
@click.option(
    "--average-decay",
    type=click.FloatRange(min=0, max=1, max_open=True),
    default=DEFAULT.average_decay,
    show_default=True,
    help="Decay of the moving average of the weights, per step; short runs need less.",
)
@rate_option
@device_option
@click.option("--output", type=Folder, default=Path("runs/final_best_lite"), show_default=True)
@report_option
def distil_command(
    *,
    crops: Path,
    mrl: Path,
    people: tuple[Path, ...],
    distillation_set: Path,
    device: Device,
    output: Path,
    report: Path,
    **chosen: float,
) -> None:
    """Train a network of a hundredth of the cost on a distillation set, and one a fold to judge it by."""
    labelled = read_people(mrl, people)
    drawn_from, _ = _drawn_from(labelled, crops)
    settings = dataclasses.replace(DEFAULT, **chosen)  # type: ignore[arg-type]
    distil(distillation_set, labelled, sources(drawn_from), settings, output, device=device)
    plot_history(history(output), report / "curves.png")
    write_history(history(output), report / "history.csv")


def _drawn_from(labelled: list[LabelledCrop], crops: Path) -> tuple[list[Crop], Folds]:
    """What views are drawn of, and their folds: labelled crops and unlabelled ones.

    Only MRL's labels count: the teacher knows better than those of the other collections.
    """
    pool = read_pool(crops)
    known = [crop if crop.collection == MRL else crop.unlabelled() for crop in labelled]
    return [*known, *pool], np.concatenate([deal(labelled), deal(pool)])
