"""The commands that distil a large network into a small one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Final

import click

from eyestate.bundle import load_bundle
from eyestate.scorer import Network
from training.commands.options import Folder, crops_option, mrl_option
from training.data.datasets import Crop, LabelledCrop, shrunk
from training.data.split import fine_tuning_split, read_pool
from training.models.distillation_set import write_distillation_set
from training.models.student import SIDE, StudentSettings, distil, tune
from training.plots import plot_history
from training.runs import history, write_history

DISTILLATION_SET: Final = Path("runs/distillation_set")
DEFAULT: Final = StudentSettings()

teacher_option = click.option(
    "--teacher", default="final_best", show_default=True, help="Bundle of the network to learn from."
)
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
@teacher_option
@click.option("--views", type=click.IntRange(min=1), default=184_320, show_default=True, help="How many views to draw.")
@click.option(
    "--own-share",
    type=click.FloatRange(min=0, max=1),
    default=0.4,
    show_default=True,
    help="Share of the views that are of the unlabelled crops; the others are of MRL's training subjects.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--output", type=Folder, default=DISTILLATION_SET, show_default=True)
def distillation_set_command(
    *, crops: Path, mrl: Path, teacher: str, views: int, own_share: float, seed: int, output: Path
) -> None:
    """Draw augmented views of crops, and record a large network's logits for a small one."""
    network = Network(load_bundle(teacher))
    write_distillation_set(
        _train_crops(mrl, crops), network, output, side=SIDE, views=views, own_share=own_share, seed=seed
    )


@click.command("search-student")
@mrl_option
@distillation_set_option
@click.option("--views", type=click.IntRange(min=DEFAULT.batch_size), default=65_536, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--trials", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--output", type=Folder, default=Path("runs/student_search"), show_default=True)
@report_option
def search_student_command(
    *, mrl: Path, distillation_set: Path, views: int, epochs: int, trials: int, output: Path, report: Path
) -> None:
    """Search the hyperparameters of a distillation by short ones.

    Learning rate, weight decay, temperature and the weight of the labels.
    """
    settings = dataclasses.replace(DEFAULT, epochs=epochs, average_decay=0.98)
    best = tune(
        distillation_set, _validation_crops(mrl), settings, output, report / "search.csv", views=views, trials=trials
    )
    click.echo(json.dumps(best, indent=2))


@click.command("distil")
@crops_option
@mrl_option
@distillation_set_option
@click.option("--epochs", type=click.IntRange(min=1), default=DEFAULT.epochs, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=2), default=DEFAULT.batch_size, show_default=True)
@click.option(
    "--average-decay",
    type=click.FloatRange(min=0, max=1, max_open=True),
    default=DEFAULT.average_decay,
    show_default=True,
    help="Decay of the moving average of the weights, per step; short runs need less.",
)
@rate_option
@click.option("--output", type=Folder, default=Path("runs/final_best_lite"), show_default=True)
@report_option
def distil_command(
    *, crops: Path, mrl: Path, distillation_set: Path, output: Path, report: Path, **chosen: float
) -> None:
    """Train a network of a hundredth of the cost on a distillation set."""
    settings = dataclasses.replace(DEFAULT, **chosen)  # type: ignore[arg-type]
    distil(distillation_set, _train_crops(mrl, crops), _validation_crops(mrl), settings, output)
    plot_history(history(output), report / "curves.png")
    write_history(history(output), report / "history.csv")


def _train_crops(mrl: Path, crops: Path) -> list[Crop]:
    return [*fine_tuning_split(mrl).train, *read_pool(crops)]


def _validation_crops(mrl: Path) -> list[LabelledCrop]:
    """A sample of MRL's validation subjects, near and as seen from afar."""
    val = fine_tuning_split(mrl).val
    return [*val, *map(shrunk, val)]
