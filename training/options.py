"""Options that commands of several modules share."""

from __future__ import annotations

import click

from training.classify import PRETRAINED
from training.data import data_dir

backbone_option = click.option(
    "--backbone",
    default=lambda: str(next(iter((data_dir().parent / "weights").glob("*casia-webface*.pt")), "casia-webface")),
    show_default="the file beside the data, else casia-webface",
    help=f"Pretrained FaceNet: {' or '.join(PRETRAINED)} (downloaded), or the path of a state_dict.",
)
