"""The command that draws the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from training.commands.options import File, Folder, crops_option
from training.data.datasets import Crop, data_dir, load_crops
from training.data.labels import Answer, agreed, read_answers
from training.data.split import hold_out
from training.evaluation.compare import ANSWERS
from training.files import write_json
from training.report import judging, labelling
from training.report.content import Report
from training.report.outputs import NotRunError, Runs
from training.report.render import write_markdown, write_page

T = TypeVar("T")

COPIED: Final = {  # what stages measured, by its name in results.json
    "comparison": "compare/comparison.json",
    "clusterings": "cluster/clusterings.json",
    "consensus": "consensus/metrics.json",
    "best_1000": "best_1000/own_test.json",
    "final_baseline": "final_baseline/own_test.json",
    "pseudo_labels": "pseudo_label/counts.json",
    "self_train_1": "self_train_1/counts.json",
    "self_train_2": "self_train_2/counts.json",
}


@click.command("report")
@crops_option
@click.option(
    "--human-labels",
    type=File,
    default=lambda: data_dir() / "human-labels.csv",
    show_default="$EYESTATE_DATA/human-labels.csv",
    help="What people said of the crops: it judges labels and networks, nothing is chosen by it.",
)
@click.option("--runs", type=Folder, default=Path("runs"), show_default=True)
@click.option("--output", type=Folder, default=Path("runs/report"), show_default=True, help="For the page with crops.")
@click.option(
    "--reports",
    type=Folder,
    default=Path("reports/pipeline"),
    show_default=True,
    help="For the Markdown, the figures without crops and results.json.",
)
def report(*, crops: Path, human_labels: Path, runs: Path, output: Path, reports: Path) -> None:
    """Draw one page, and Markdown without crops, of what all stages found, beside the original report's numbers.

    A stage that has not been run gets a line that says which command makes it.
    """
    pool, held_out = hold_out(load_crops(crops).crops)
    people = read_answers(human_labels) if human_labels.exists() else {}
    made, results = draw(Runs(runs), pool, held_out, people)
    write_page(made, output / "index.html")
    write_markdown(made, reports / "README.md")
    write_json(reports / "results.json", results)
    click.echo(f"wrote {output / 'index.html'} and {reports / 'README.md'}")


def draw(
    runs: Runs, pool: Sequence[Crop], held_out: Sequence[Crop], people: Mapping[str, Answer]
) -> tuple[Report, dict[str, Any]]:
    """The report, and its numbers by name, null where a stage has not been run."""
    asked = {crop.name: people[crop.name] for crop in pool if crop.name in people}
    qualities, missing = labelling.stage_qualities(runs, pool, asked)
    suspicions = if_run(lambda: labelling.suspicions(runs, asked))
    calibrations = judging.calibrations(runs)
    made = Report(
        "From unlabelled eye crops to final_best",
        [
            judging.summary(runs),
            labelling.clustering(runs),
            labelling.consensus(runs, pool),
            labelling.pseudo_labels(runs),
            labelling.people(runs),
            labelling.quality(qualities, missing, suspicions),
            judging.baseline(runs),
            judging.attempts(runs),
            judging.shown(runs, agreed(held_out, people)),
            judging.calibration(runs, calibrations),
            judging.training(runs),
            judging.notes(),
        ],
    )
    results = {
        **{name: if_run(partial(runs.json, path, "")) for name, path in COPIED.items()},
        "crops_people_were_asked_about": {name: len(labelling.answered(runs, name)) for name in ANSWERS},
        "label_quality": [dataclasses.asdict(item) for item in qualities],
        "label_errors": None if suspicions is None else [dataclasses.asdict(item) for item in suspicions],
        "calibration": {test: dataclasses.asdict(item) for test, item in calibrations.items()},
    }
    return made, results


def if_run(make: Callable[[], T]) -> T | None:
    """What is made, or None where its stage has not been run."""
    try:
        return make()
    except NotRunError:
        return None
