"""The command that trains the first network, on MRL."""

from __future__ import annotations

from pathlib import Path

import click

from training.commands.options import backbone_option, device_option, mrl_option
from training.data.split import split_mrl
from training.models.classifier import MIN_INPUT, Settings, train
from training.models.learner import Device
from training.plots import plot_history
from training.runs import history, write_history

SIDE = click.IntRange(min=MIN_INPUT)


@click.command("train")
@mrl_option
@backbone_option
@click.option(
    "--input-side",
    type=SIDE,
    default=Settings().input_side,
    show_default=True,
    help="Width and height of the input in pixels.",
)
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
    help="Decay of the moving average of the weights, per step; short runs need less.",
)
@device_option
@click.option("--output", type=click.Path(path_type=Path), default=Path("runs/kaggle_model"), show_default=True)
def train_command(
    *,
    mrl: Path,
    backbone: str,
    input_side: int,
    epochs: int,
    crops_per_epoch: int,
    average_decay: float,
    device: Device,
    output: Path,
) -> None:
    """Train kaggle_model on MRL, split by subject, and draw its loss and EER by epoch."""
    split = split_mrl(mrl)
    settings = Settings(
        backbone=backbone,
        input_side=input_side,
        epochs=epochs,
        crops_per_epoch=crops_per_epoch,
        average_decay=average_decay,
    )
    best = train(split, settings, output, device=device)
    plot_history(history(output), output / "curves.png")
    write_history(history(output), output / "history.csv")
    click.echo(f"best checkpoint: {best}; curves: {output / 'curves.png'}")
