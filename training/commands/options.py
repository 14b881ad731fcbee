"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from training.data.datasets import data_dir
from training.models.classifier import PRETRAINED, Settings

Folder = click.Path(path_type=Path, file_okay=False)
File = click.Path(path_type=Path, dir_okay=False)

crops_option = click.option(
    "--crops",
    type=click.Path(path_type=Path),
    default=lambda: data_dir() / "eyes-dataset.zip",
    show_default="$EYESTATE_DATA/eyes-dataset.zip",
    help="The unlabelled crops: zip or folder. A quarter of them is held out and never trained on.",
)
mrl_option = click.option(
    "--mrl",
    type=click.Path(path_type=Path),
    default=lambda: data_dir() / "mrl-eyes.zip",
    show_default="$EYESTATE_DATA/mrl-eyes.zip",
    help="The MRL Eye Dataset: zip or folder, original or Kaggle layout.",
)
human_labels_option = click.option(
    "--human-labels",
    type=File,
    default=lambda: data_dir() / "human-labels.csv",
    show_default="$EYESTATE_DATA/human-labels.csv",
    help="People's answers on the held-out crops, to evaluate by only: file,label,annotators,votes_open.",
)
backbone_option = click.option(
    "--backbone",
    default=lambda: str(next(iter((data_dir().parent / "weights").glob("*casia-webface*.pt")), "casia-webface")),
    show_default="the file beside the data, else casia-webface",
    help=f"Pretrained FaceNet: {' or '.join(PRETRAINED)} (downloaded), or the path of a state_dict.",
)
max_wrong_option = click.option(
    "--max-wrong",
    type=click.FloatRange(min=0, max=0.5, min_open=True),
    default=0.005,
    show_default=True,
    help="Share of the verdicts outside the uncertain band that may be wrong on MRL's validation subjects.",
)
reports_option = click.option(
    "--reports", type=Folder, default=Path("reports"), show_default=True, help="Results are written to its folder NAME."
)

start_option = click.option(
    "--start", type=Folder, default=Path("runs/kaggle_model"), show_default=True, help="The run to fine-tune."
)
answers_option = click.option(
    "--answers", type=File, multiple=True, help="People's answers (`python -m training label`); repeatable."
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
    help="Decay of the moving average of the weights, per step.",
)
share_option = click.option(
    "--own-share",
    type=click.FloatRange(min=0, max=1),
    default=0.5,
    show_default=True,
    help="Share of unlabelled crops among the crops drawn; the others are MRL's.",
)
seed_option = click.option("--seed", type=int, default=0, show_default=True)


def settings_options(command: Any) -> Any:
    """The options that make up ``Settings`` for a fine-tuning."""
    for option in (seed_option, decay_option, rate_option, draws_option, epochs_option):
        command = option(command)
    return command
