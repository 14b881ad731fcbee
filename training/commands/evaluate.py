"""The commands that evaluate networks: comparison, calibration, behaviour, limits of image quality."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import click

from eyestate.bundle import DEFAULT_MODEL
from eyestate.scorer import Scorer, load
from training.commands.options import (
    Folder,
    crops_option,
    held_out_labels_option,
    human_labels_option,
    mrl_option,
    people_option,
    read_judging,
    runs_option,
)
from training.data.datasets import MRL, load_mrl, read_people
from training.data.labels import read_held_out
from training.data.split import split_by_subject, split_mrl
from training.evaluation import behaviour, calibration, quality_limits
from training.evaluation.compare import TestSet, compare
from training.evaluation.drift_examples import Example, drift_examples
from training.evaluation.judging import EASY, HELD_OUT, STRANGERS, STRANGERS_FAR, stranger_sets, threshold_crops
from training.evaluation.results import ScoredCrops
from training.export.bundle import strangers_file
from training.export.cascade import cached_scores
from training.files import write_json
from training.models.strangers import Strangers

DRAWN, SAMPLED = 100, 500  # crops of each kind that a behavioural test takes at most


@click.command("compare")
@crops_option
@mrl_option
@people_option
@held_out_labels_option
@human_labels_option
@runs_option
@click.option("--output", type=Folder, default=Path("runs/compare"), show_default=True)
def compare_command(
    *,
    crops: Path,
    mrl: Path,
    people: tuple[Path, ...],
    held_out_labels: Path,
    human_labels: Path,
    runs: Path,
    output: Path,
) -> None:
    """Compare all networks on crops that none was trained on: held-out ones, and people that each had never seen.

    This is the final comparison: nothing may be chosen by its results.
    """
    labelled = read_people(mrl, people)
    subjects = {crop.subject for crop in split_by_subject([crop for crop in labelled if crop.collection == MRL]).test}
    held_out = read_judging(crops, held_out_labels, human_labels)
    tests = [
        TestSet("held_out", "all held-out crops of the unlabelled set", held_out.everything),
        TestSet("held_out_easy", "those on which two or more people agree", held_out.easy),
        TestSet("mrl", "MRL's test subjects", [crop for crop in labelled if crop.subject in subjects]),
        *(
            TestSet(name, f"crops of {name}", [crop for crop in labelled if crop.collection == name])
            for name in dict.fromkeys(crop.collection for crop in labelled if crop.collection != MRL)
        ),
    ]
    for attempt in compare([test for test in tests if test.crops], labelled, runs, output):
        figures = ", ".join(f"{name} {eer['value']:.4f}" for name, eer in attempt["eer"].items()) or "not run"
        click.echo(f"{attempt['name']}: {figures}")


@click.command("calibration")
@crops_option
@mrl_option
@people_option
@held_out_labels_option
@human_labels_option
@click.option("--model", default="final_best", show_default=True, help="Name of a bundle, or path of its folder.")
@runs_option
@click.option("--cache", type=Folder, default=Path("runs/scores"), show_default=True, help="Folder to cache scores in.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file.  [default: reports/MODEL/calibration.json]")
def calibration_command(
    *,
    crops: Path,
    mrl: Path,
    people: tuple[Path, ...],
    held_out_labels: Path,
    human_labels: Path,
    model: str,
    runs: Path,
    cache: Path,
    output: Path | None,
) -> None:
    """Measure how well a bundle's scores are calibrated; `card` puts the results into its card.

    On MRL's people, each scored by a network that never saw them and left out in turn, temperature and isotonic
    regression are held against the scores as they are; on crops that chose nothing, the expected calibration error is
    measured.
    """
    scorer = load(model)
    name = scorer.manifest.name
    labelled = read_people(mrl, people)
    said = Strangers.read(strangers_file(runs, name), labelled, "export")
    chosen_by = threshold_crops(labelled, said)
    fits = calibration.compare(chosen_by.scores, chosen_by.labels, chosen_by.subjects)
    held_out = read_judging(crops, held_out_labels, human_labels)
    tests = {
        kind: ScoredCrops(part, cached_scores(scorer, part, cache))
        for kind, part in ((HELD_OUT, held_out.everything), (EASY, held_out.easy))
        if part
    } | {
        kind: scored for kind, scored in stranger_sets(labelled, said).items() if kind not in (STRANGERS, STRANGERS_FAR)
    }
    errors = {
        kind: calibration.errors(chosen_by.scores, chosen_by.labels, scored.scores, scored.labels)
        for kind, scored in tests.items()
    }
    write_json(
        output or Path("reports") / name / "calibration.json",
        {
            "model": name,
            "sha256": scorer.manifest.sha256,
            "left_out": [*map(dataclasses.asdict, fits)],
            "error": errors,
        },
    )
    click.echo(calibration.section(fits, errors))


@click.command("behaviour")
@mrl_option
@crops_option
@held_out_labels_option
@click.option("--model", default="final_best", show_default=True, help="Name of a bundle, or path of its folder.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file.  [default: reports/MODEL/behaviour.json]")
def behaviour_command(*, mrl: Path, crops: Path, held_out_labels: Path, model: str, output: Path | None) -> None:
    """Test which changes of a crop alter a bundle's verdict, and which must lower its score.

    MRL's crops are those it was trained on, so that only what changes between a crop and its variant tells anything.
    `card` puts the results into the model card. Takes minutes for a large network.
    """
    real = []
    if mrl.exists():
        real.append(behaviour.sample("MRL, trained on", load_mrl(mrl).crops, SAMPLED))
    if crops.exists() and held_out_labels.exists():
        real.append(behaviour.sample("held-out", read_held_out(crops, held_out_labels), SAMPLED))
    results = behaviour.behaviour(load(model), behaviour.generated(DRAWN), real)
    path = output or Path("reports") / results.model / "behaviour.json"
    behaviour.write(results, path)
    click.echo(behaviour.table(results))
    click.echo("\n".join(results.failures) or "everything passed")
    click.echo(f"wrote {path}")


@click.command("quality-limits")
@mrl_option
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Name of a bundle, or path of its folder.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="JSON file.  [default: reports/MODEL/quality-limits.json]"
)
def quality_limits_command(mrl: Path, model: str, output: Path | None) -> None:
    """Measure a bundle's errors on crops made darker, brighter, more blurred and smaller."""
    scorer = load(model)
    rows = quality_limits.quality_limits(scorer, split_mrl(mrl).val[:: quality_limits.SCORED])
    _write_rows(scorer, rows, output, "quality-limits")


@click.command("drift-examples")
@crops_option
@held_out_labels_option
@mrl_option
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Name of a bundle, or path of its folder.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="JSON file.  [default: reports/MODEL/drift-examples.json]"
)
def drift_examples_command(crops: Path, held_out_labels: Path, mrl: Path, model: str, output: Path | None) -> None:
    """Measure how far changed crops, and those of other people, are from a bundle's reference for drift."""
    scorer = load(model)
    strangers = split_mrl(mrl).val[:: quality_limits.SCORED]
    rows = drift_examples(scorer, read_held_out(crops, held_out_labels), strangers)
    _write_rows(scorer, rows, output, "drift-examples")


def _write_rows(scorer: Scorer, rows: Sequence[quality_limits.Row | Example], output: Path | None, name: str) -> None:
    path = output or Path("reports") / scorer.manifest.name / f"{name}.json"
    about = {"model": scorer.manifest.name, "sha256": scorer.manifest.sha256}
    write_json(path, about | {"rows": [*map(dataclasses.asdict, rows)]})
    click.echo(f"wrote {path}; `make figures` shows it in docs/metrics.md")
