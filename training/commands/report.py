"""The command that draws the report."""

from __future__ import annotations

from pathlib import Path

import click

from training.commands.options import File, Folder, crops_option, held_out_labels_option
from training.data.datasets import data_dir
from training.data.labels import read_answers, read_held_out
from training.data.split import read_pool
from training.files import write_json
from training.report.draw import draw
from training.report.outputs import Runs
from training.report.render import write_markdown, write_page


@click.command("report")
@crops_option
@click.option(
    "--human-labels",
    type=File,
    default=lambda: data_dir() / "human-labels.csv",
    show_default="$EYESTATE_DATA/human-labels.csv",
    help="People's answers, to evaluate labels and networks; nothing is chosen by them.",
)
@held_out_labels_option
@click.option("--runs", type=Folder, default=Path("runs"), show_default=True)
@click.option(
    "--output", type=Folder, default=Path("runs/report"), show_default=True, help="Folder for the page with crops."
)
@click.option(
    "--reports",
    type=Folder,
    default=Path("reports/pipeline"),
    show_default=True,
    help="Folder for the Markdown, the figures without crops and results.json.",
)
def report_command(
    *, crops: Path, human_labels: Path, held_out_labels: Path, runs: Path, output: Path, reports: Path
) -> None:
    """Render the results of all stages: a page with crops, and Markdown without them.

    A stage that has not been run gets a line that says which command makes it.
    """
    held_out = read_held_out(crops, held_out_labels) if held_out_labels.exists() else []
    people = read_answers(human_labels) if human_labels.exists() else {}
    made, results = draw(Runs(runs), read_pool(crops), held_out, people)
    write_page(made, output / "index.html")
    write_markdown(made, reports / "README.md")
    write_json(reports / "results.json", results)
    click.echo(f"wrote {output / 'index.html'} and {reports / 'README.md'}")
