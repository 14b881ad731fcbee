"""``python -m training``: every step from crops to a shipped model."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from eyestate.bundle import models_dir
from eyestate.cli import Commands
from eyestate.scorer import load
from training.commands.card import card_command
from training.commands.label import label
from training.commands.lite import (
    calibration_command,
    cascade_command,
    distil_command,
    distillation_set_command,
    search_student,
)
from training.commands.options import (
    backbone_option,
    crops_option,
    human_labels_option,
    max_wrong_option,
    mrl_option,
    reports_option,
)
from training.commands.report import report
from training.commands.stages import (
    compare_command,
    fine_tune,
    mix,
    pseudo_label,
    score,
    self_train_command,
)
from training.commands.unlabelled import cluster_command, consensus_command, features_command
from training.data.datasets import load_mrl
from training.data.describe import describe
from training.data.labels import read_held_out
from training.data.split import read_pool, split_by_subject
from training.data.synthetic import generate
from training.evaluation import behaviour
from training.evaluation.quality_limits import SCORED, quality_limits, table
from training.export.bundle import export_run
from training.export.detector import export_detector_command
from training.models.classifier import MIN_INPUT, Settings, train
from training.plots import plot_history
from training.runs import history, record_time, write_history

RUNS = Path("runs")
DRAWN, SAMPLED = 100, 500  # crops of each kind that a behavioural test takes at most
SIDE = click.IntRange(min=MIN_INPUT)


class Stages(Commands):
    """Commands that note how long they took when they run as a stage of the pipeline."""

    def invoke(self, ctx: click.Context) -> Any:
        started = time.monotonic()
        result = super().invoke(ctx)
        if stage := os.environ.get("DVC_STAGE"):
            record_time(RUNS / "timings.json", f"{stage}: {ctx.invoked_subcommand}", time.monotonic() - started)
        return result


@click.group(cls=Stages, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train, judge and export open/closed-eye classifiers.

    Data sets are looked for in $EYESTATE_DATA (default: ../shared/data). Runs go to runs/, which git ignores; a
    command that was stopped continues where it was when it is given again. `dvc repro` runs all of them in their
    order and leaves out what is up to date; params.yaml holds their parameters.
    """


@main.command("describe")
@mrl_option
@click.option("--output", type=click.Path(path_type=Path), default=RUNS / "describe", show_default=True)
def describe_mrl(mrl: Path, output: Path) -> None:
    """Print and plot what MRL is made of, and list the files that are left out."""
    describe(load_mrl(mrl), output, Console())


@main.command("train")
@mrl_option
@backbone_option
@click.option("--input-side", type=SIDE, default=Settings().input_side, show_default=True, help="Pixels.")
@click.option("--epochs", type=click.IntRange(min=1), default=Settings().epochs, show_default=True)
@click.option(
    "--crops-per-epoch",
    type=click.IntRange(min=Settings().batch_size),
    default=Settings().crops_per_epoch,
    show_default=True,
)
@click.option(
    "--average-decay",
    type=click.FloatRange(min=0, max=1, max_open=True),
    default=Settings().average_decay,
    show_default=True,
    help="Of the moving average of the weights, per step; short runs need less.",
)
@click.option("--output", type=click.Path(path_type=Path), default=RUNS / "kaggle_model", show_default=True)
def train_mrl(
    *,
    mrl: Path,
    backbone: str,
    input_side: int,
    epochs: int,
    crops_per_epoch: int,
    average_decay: float,
    output: Path,
) -> None:
    """Train kaggle_model on MRL, split by subject, and draw its loss and EER by epoch."""
    split = split_by_subject(load_mrl(mrl).crops)
    settings = Settings(
        backbone=backbone,
        input_side=input_side,
        epochs=epochs,
        crops_per_epoch=crops_per_epoch,
        average_decay=average_decay,
    )
    best = train(split, settings, output)
    plot_history(history(output), output / "curves.png")
    write_history(history(output), output / "history.csv")
    click.echo(f"best checkpoint: {best}; curves: {output / 'curves.png'}")


@main.command("export")
@mrl_option
@crops_option
@human_labels_option
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    default=RUNS / "final_best",
    show_default=True,
    help="The output folder of a training.",
)
@click.option("--name", default="final_best", show_default=True, help="Name of the bundle.")
@click.option("--version", default="1.0.0", show_default=True, help="Version of the bundle.")
@click.option("--models", type=click.Path(path_type=Path), default=models_dir, show_default="models/")
@reports_option
@max_wrong_option
def export(
    *,
    mrl: Path,
    crops: Path,
    human_labels: Path,
    run: Path,
    name: str,
    version: str,
    models: Path,
    reports: Path,
    max_wrong: float,
) -> None:
    """Evaluate a trained classifier on crops it never saw and write its bundle; `card` writes its model card.

    Where people's labels of the held-out crops are missing, MRL's test subjects alone judge. Where the unlabelled crops
    are missing, the service will have nothing to measure drift from.
    """
    split = split_by_subject(load_mrl(mrl).crops)
    held_out = read_held_out(crops, human_labels) if human_labels.exists() else []
    reference_crops = read_pool(crops) if crops.exists() else []
    bundle = export_run(
        run,
        split,
        models,
        name=name,
        version=version,
        results=reports / name,
        max_wrong=max_wrong,
        held_out=held_out,
        reference_crops=reference_crops,
    )
    for metric in bundle.manifest.metrics:
        click.echo(f"{metric.name}: {metric.value:.4f} ({metric.low:.4f} to {metric.high:.4f}, {metric.interval})")
    click.echo(f"wrote {bundle.path}")


@main.command("quality-limits")
@mrl_option
@click.option("--model", default="final_best", show_default=True, help="Name of a bundle, or path of its folder.")
def measure_quality_limits(mrl: Path, model: str) -> None:
    """Measure the errors of a bundle on crops made ever darker, brighter, more blurred and smaller."""
    crops = split_by_subject(load_mrl(mrl).crops).val[::SCORED]
    click.echo(table(quality_limits(load(model), crops)))


@main.command("behaviour")
@mrl_option
@crops_option
@human_labels_option
@click.option("--model", default="final_best", show_default=True, help="Name of a bundle, or path of its folder.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON.  [default: reports/MODEL/behaviour.json]")
def measure_behaviour(*, mrl: Path, crops: Path, human_labels: Path, model: str, output: Path | None) -> None:
    """Test what must not change a bundle's mind, and what must: on generated crops, and on real ones that are there.

    `card` puts the results into the model card. Takes minutes for a large network.
    """
    real = []
    if mrl.exists():
        real.append(behaviour.sample("MRL test subjects", split_by_subject(load_mrl(mrl).crops).test, SAMPLED))
    if crops.exists() and human_labels.exists():
        real.append(behaviour.sample("held-out", read_held_out(crops, human_labels), SAMPLED))
    results = behaviour.behaviour(load(model), behaviour.generated(DRAWN), real)
    path = output or Path("reports") / results.model / "behaviour.json"
    behaviour.write(results, path)
    click.echo(behaviour.table(results))
    click.echo("\n".join(results.failures) or "everything passed")
    click.echo(f"wrote {path}")


for command in (
    generate,
    features_command,
    cluster_command,
    consensus_command,
    score,
    fine_tune,
    pseudo_label,
    label,
    self_train_command,
    mix,
    compare_command,
    export_detector_command,
    report,
    distillation_set_command,
    search_student,
    distil_command,
    cascade_command,
    calibration_command,
    card_command,
):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="python -m training")
