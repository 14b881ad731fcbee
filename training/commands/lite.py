"""The commands that make the small network from the large one, and the cascade of both."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from eyestate.bundle import load_bundle, load_model, models_dir
from eyestate.scorer import Network, load
from training.commands.options import (
    Folder,
    crops_option,
    human_labels_option,
    max_wrong_option,
    mrl_option,
    reports_option,
)
from training.data.datasets import FAR_SIDE, Crop, LabelledCrop, labels_of, load_mrl, shrunk
from training.data.labels import read_held_out
from training.data.split import fine_tuning_split, read_pool, split_by_subject
from training.evaluation import calibration
from training.export.bundle import FAR_SAMPLE
from training.export.cascade import cached_scores, make_cascade
from training.files import write_json
from training.models.distillation_set import write_distillation_set
from training.models.student import SIDE, StudentSettings, distil, tune
from training.plots import plot_history
from training.runs import history, write_history

DISTILLATION_SET: Final = Path("runs/distillation_set")
SCORES: Final = Path("runs/scores")
DEFAULT: Final = StudentSettings()

teacher_option = click.option(
    "--teacher", default="final_best", show_default=True, help="Bundle of the network that answers."
)
distillation_set_option = click.option(
    "--distillation-set",
    type=Folder,
    default=DISTILLATION_SET,
    show_default=True,
    help="Of `python -m training distillation-set`.",
)
report_option = click.option(
    "--report",
    type=Folder,
    default=Path("reports/final_best_lite"),
    show_default=True,
    help="For the tables and figures that are committed.",
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
@click.option("--views", type=click.IntRange(min=1), default=184_320, show_default=True, help="How many to draw.")
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
    """Draw changed views of crops and write down what a large network says of each, for a small one to learn."""
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
def search_student(
    *, mrl: Path, distillation_set: Path, views: int, epochs: int, trials: int, output: Path, report: Path
) -> None:
    """Search learning rate, weight decay, temperature and weight of the labels by short distillations."""
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
    help="Of the moving average of the weights, per step; short runs need less.",
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


@click.command("cascade")
@crops_option
@mrl_option
@human_labels_option
@click.option("--small", default="final_best_lite", show_default=True, help="Bundle that scores every crop.")
@click.option("--large", default="final_best", show_default=True, help="Bundle to which crops are deferred.")
@click.option("--name", default="cascade", show_default=True)
@click.option("--version", default="1.0.0", show_default=True)
@click.option("--models", type=click.Path(path_type=Path), default=models_dir, show_default="models/")
@reports_option
@max_wrong_option
@click.option("--cache", type=Folder, default=SCORES, show_default=True, help="Where scores are kept.")
def cascade_command(
    *,
    crops: Path,
    mrl: Path,
    human_labels: Path,
    small: str,
    large: str,
    name: str,
    version: str,
    models: Path,
    reports: Path,
    max_wrong: float,
    cache: Path,
) -> None:
    """Choose the deferral band, evaluate both networks together and write the bundle of the cascade."""
    path = make_cascade(
        load_bundle(models / small),
        load_bundle(models / large),
        split_by_subject(load_mrl(mrl).crops),
        models,
        name=name,
        version=version,
        results=reports / name,
        max_wrong=max_wrong,
        held_out=read_held_out(crops, human_labels) if human_labels.exists() else [],
        reference_crops=read_pool(crops),
        cache=cache,
    )
    for metric in load_model(path).manifest.metrics:
        click.echo(f"{metric.name}: {metric.value:.4f} ({metric.low:.4f} to {metric.high:.4f}, {metric.interval})")
    click.echo(f"wrote {path}")


@click.command("calibration")
@crops_option
@mrl_option
@human_labels_option
@click.option("--model", default="final_best", show_default=True, help="Name of a bundle, or path of its folder.")
@click.option("--cache", type=Folder, default=SCORES, show_default=True, help="Where scores are kept.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON.  [default: reports/MODEL/calibration.json]")
def calibration_command(
    *, crops: Path, mrl: Path, human_labels: Path, model: str, cache: Path, output: Path | None
) -> None:
    """Measure how far the scores of a bundle are probabilities; `card` puts the results into its card.

    On MRL's validation subjects, each left out in turn, temperature and isotonic regression are held against the scores
    as they are; on crops that chose nothing, the expected calibration error is measured.
    """
    scorer = load(model)
    split = split_by_subject(load_mrl(mrl).crops)
    validation = [*split.val, *map(shrunk, split.val[::FAR_SAMPLE])]
    seen, labels = cached_scores(scorer, validation, cache), labels_of(validation)
    fits = calibration.compare(seen, labels, [str(crop.subject) for crop in validation])
    tests: dict[str, Sequence[LabelledCrop]] = {
        "MRL test subjects": split.test,
        f"the same, shrunk to {FAR_SIDE} px": [*map(shrunk, split.test)],
    }
    if human_labels.exists():
        tests["held-out crops of the unlabelled set"] = read_held_out(crops, human_labels)
    errors = {
        name: calibration.errors(seen, labels, cached_scores(scorer, test, cache), labels_of(test))
        for name, test in tests.items()
    }
    name = scorer.manifest.name
    write_json(
        output or Path("reports") / name / "calibration.json",
        {
            "model": name,
            "sha256": scorer.manifest.sha256,
            "left_out": [*map(dataclasses.asdict, fits)],
            "error": errors,
        },
    )
    click.echo(calibration.section(fits, errors))


def _train_crops(mrl: Path, crops: Path) -> list[Crop]:
    return [*fine_tuning_split(mrl).train, *read_pool(crops)]


def _validation_crops(mrl: Path) -> list[LabelledCrop]:
    """A sample of MRL's validation subjects, near and as seen from afar."""
    val = fine_tuning_split(mrl).val
    return [*val, *map(shrunk, val)]
