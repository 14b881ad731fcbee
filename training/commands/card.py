"""The command that renders model cards."""

from __future__ import annotations

from pathlib import Path

import click

from eyestate.atomic import write_atomically
from eyestate.bundle import load_model, models_dir
from training.commands.options import Folder
from training.export.card import card


@click.command("card")
@click.option("--model", default="final_best", show_default=True, help="Name of a bundle.")
@click.option("--models", type=click.Path(path_type=Path), default=models_dir, show_default="models/")
@click.option(
    "--reports", type=Folder, default=Path("reports"), show_default=True, help="Where the results of each model lie."
)
def card_command(model: str, models: Path, reports: Path) -> None:
    """Render the model card of a bundle from its manifest and from what was measured of it."""
    bundle = load_model(models / model)
    path = bundle.path / "README.md"
    write_atomically(path, card(bundle.manifest, reports / model))
    click.echo(f"wrote {path}")
