"""The command that draws synthetic eye crops."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from PIL import Image

from eyestate.arrays import Pixels
from training.data.synthetic import filmstrip, labelled, random_eye


@click.command("generate", epilog="Example: python -m training generate --output examples --count 4 --filmstrip")
@click.option(
    "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder for the images."
)
@click.option("--count", default=8, show_default=True, type=click.IntRange(min=1), help="How many of each label.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="The same seed draws the same images."
)
@click.option("--filmstrip", "film", is_flag=True, help="Also draw one eye closing step by step: filmstrip.jpg.")
def generate_command(output: Path, count: int, seed: int, film: bool) -> None:
    """Draw synthetic eye crops: open_0000.jpg, closed_0000.jpg and so on."""
    output.mkdir(parents=True, exist_ok=True)
    for index, (pixels, label) in enumerate(labelled(2 * count, seed)):
        _save(pixels, output / f"{('closed', 'open')[label]}_{index // 2:04d}.jpg")
    if film:
        _save(filmstrip(random_eye(np.random.default_rng(seed), 1.0)), output / "filmstrip.jpg")


def _save(pixels: Pixels, path: Path) -> None:
    Image.fromarray(pixels).save(path, quality=95)
