"""The command that describes a data set."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from training.commands.options import mrl_option
from training.data.datasets import load_mrl
from training.data.describe import describe


@click.command("describe")
@mrl_option
@click.option("--output", type=click.Path(path_type=Path), default=Path("runs/describe"), show_default=True)
def describe_command(mrl: Path, output: Path) -> None:
    """Count MRL's crops by label, subject and attribute, and list the files that are left out."""
    describe(load_mrl(mrl), output, Console())
