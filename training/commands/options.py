"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from eyestate.bundle import models_dir
from training.data.datasets import data_dir
from training.data.labels import read_agreed, read_held_out
from training.evaluation.judging import HeldOut
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
people_option = click.option(
    "--people",
    type=click.Path(path_type=Path),
    multiple=True,
    default=lambda: [data_dir() / "colour-eyes.zip", data_dir() / "wide-eyes.zip"],
    show_default="$EYESTATE_DATA/colour-eyes.zip and wide-eyes.zip",
    help="More labelled crops: zip or folder of COLLECTION/open|closed/PERSON_NUMBER.jpg; repeatable.",
)
shares_option = click.option(
    "--share",
    "shares",
    type=(str, click.FloatRange(min=0)),
    multiple=True,
    required=True,
    metavar="COLLECTION SHARE",
    help="The share of the draws that a collection has, relative to the others; repeatable.",
)
human_labels_option = click.option(
    "--human-labels",
    type=File,
    default=lambda: data_dir() / "human-labels.csv",
    show_default="$EYESTATE_DATA/human-labels.csv",
    help="People's answers on the held-out crops, to evaluate by only: file,label,annotators,votes_open.",
)
held_out_labels_option = click.option(
    "--held-out-labels",
    type=File,
    default=lambda: data_dir() / "held-out-labels.csv",
    show_default="$EYESTATE_DATA/held-out-labels.csv",
    help="The label of every held-out crop, to evaluate by only: file,label.",
)
teacher_option = click.option(
    "--teacher",
    type=Folder,
    default=lambda: models_dir() / "final_best",
    show_default="models/final_best",
    help="The bundle of the committee to learn from.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train; auto is a GPU if there is one.",
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
    default=0.01,
    show_default=True,
    help="Share of the verdicts outside the uncertain band that may be wrong on people never seen.",
)
reports_option = click.option(
    "--reports", type=Folder, default=Path("reports"), show_default=True, help="Results are written to its folder NAME."
)

runs_option = click.option(
    "--runs", type=Folder, default=Path("runs"), show_default=True, help="Folder of the training runs."
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
seed_option = click.option("--seed", type=int, default=0, show_default=True)


def settings_options(command: Any) -> Any:
    """The options that make up ``Settings`` for a fine-tuning."""
    for option in (seed_option, decay_option, rate_option, draws_option, epochs_option):
        command = option(command)
    return command


def read_judging(crops: Path, held_out_labels: Path, human_labels: Path) -> HeldOut:
    """The held-out crops, as far as anybody labelled them.

    Raises:
        DataError: a file of labels does not fit the crops.
    """
    return HeldOut(
        read_held_out(crops, held_out_labels) if held_out_labels.exists() else [],
        read_agreed(crops, human_labels) if human_labels.exists() else [],
    )
