"""Options that commands of several modules share."""

from __future__ import annotations

from pathlib import Path

import click

from training.data.datasets import data_dir
from training.models.classifier import PRETRAINED

Folder = click.Path(path_type=Path, file_okay=False)
File = click.Path(path_type=Path, dir_okay=False)

crops_option = click.option(
    "--crops",
    type=click.Path(path_type=Path),
    default=lambda: data_dir() / "eyes-dataset.zip",
    show_default="$EYESTATE_DATA/eyes-dataset.zip",
    help="The unlabelled crops: zip or folder. A quarter of them is held out and never learnt from.",
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
    help="What people said of the held-out crops: file,label,annotators,votes_open. It only judges.",
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
    "--reports", type=Folder, default=Path("reports"), show_default=True, help="Results go to its folder NAME."
)
