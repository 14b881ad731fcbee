"""``python -m training``: every step from crops to a shipped model."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from eyestate.bundle import models_dir
from eyestate.cli import Commands
from training import input_size
from training.classify import MIN_INPUT, PRETRAINED, Settings, train
from training.data import data_dir, load_mrl, split_by_subject
from training.describe import describe
from training.export import export_run
from training.plots import plot_history
from training.runs import history, write_history
from training.synthetic import generate

RUNS = Path("runs")
SIDE = click.IntRange(min=MIN_INPUT)

mrl_option = click.option(
    "--mrl",
    type=click.Path(path_type=Path),
    default=lambda: data_dir() / "mrl-eyes.zip",
    show_default="$EYESTATE_DATA/mrl-eyes.zip",
    help="The MRL Eye Dataset: zip or folder, original or Kaggle layout.",
)
backbone_option = click.option(
    "--backbone",
    default=lambda: str(next(iter((data_dir().parent / "weights").glob("*casia-webface*.pt")), "casia-webface")),
    show_default="the file beside the data, else casia-webface",
    help=f"Pretrained FaceNet: {' or '.join(PRETRAINED)} (downloaded), or the path of a state_dict.",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train, judge and export open/closed-eye classifiers.

    Data sets are looked for in $EYESTATE_DATA (default: ../shared/data). Runs go to runs/, which git ignores; a
    command that was stopped continues where it was when it is given again.
    """


@main.command("describe")
@mrl_option
@click.option("--output", type=click.Path(path_type=Path), default=RUNS / "describe", show_default=True)
def describe_mrl(mrl: Path, output: Path) -> None:
    """Print and plot what MRL is made of, and list the files that are left out."""
    describe(load_mrl(mrl), output, Console())


@main.command("input-size")
@mrl_option
@backbone_option
@click.option("--side", "sides", multiple=True, type=SIDE, default=(80, 96, 112, 128, 160), show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=RUNS / "input_size", show_default=True)
def compare_input_sizes(mrl: Path, backbone: str, sides: tuple[int, ...], output: Path) -> None:
    """Train briefly at several input sizes and compare their validation EERs and speeds."""
    split = split_by_subject(load_mrl(mrl).crops)
    for row in input_size.compare(split, backbone, sides, output):
        click.echo(json.dumps(row))


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
@click.option("--output", type=click.Path(path_type=Path), default=RUNS / "kaggle_model", show_default=True)
def train_mrl(*, mrl: Path, backbone: str, input_side: int, epochs: int, crops_per_epoch: int, output: Path) -> None:
    """Train kaggle_model on MRL, split by subject, and draw its loss and EER by epoch."""
    split = split_by_subject(load_mrl(mrl).crops)
    settings = Settings(backbone=backbone, input_side=input_side, epochs=epochs, crops_per_epoch=crops_per_epoch)
    best = train(split, settings, output)
    plot_history(history(output), output / "curves.png")
    click.echo(f"best checkpoint: {best}; curves: {output / 'curves.png'}")


@main.command("export")
@mrl_option
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    default=RUNS / "kaggle_model",
    show_default=True,
    help="The output folder of `train`.",
)
@click.option("--name", default="kaggle_model", show_default=True, help="Name of the bundle.")
@click.option("--version", default="1.0.0", show_default=True, help="Version of the bundle.")
@click.option("--models", type=click.Path(path_type=Path), default=models_dir, show_default="models/")
@click.option("--reports", type=click.Path(path_type=Path), default=Path("reports"), show_default=True)
def export_mrl(*, mrl: Path, run: Path, name: str, version: str, models: Path, reports: Path) -> None:
    """Judge a trained classifier on subjects it never saw and write its bundle, model card and curves."""
    bundle = export_run(run, split_by_subject(load_mrl(mrl).crops), models, name=name, version=version)
    epochs = history(run)
    plot_history(epochs, reports / name / "curves.png")
    write_history(epochs, reports / name / "history.csv")
    for metric in bundle.manifest.metrics:
        click.echo(f"{metric.name}: {metric.value:.4f} ({metric.low:.4f} to {metric.high:.4f}, {metric.interval})")
    click.echo(f"wrote {bundle.path}")


main.add_command(generate)

if __name__ == "__main__":
    main(prog_name="python -m training")
