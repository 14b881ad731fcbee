"""The commands that evaluate networks: comparison, calibration, behaviour, limits of image quality."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import click

from eyestate.scorer import load
from training.commands.options import Folder, crops_option, human_labels_option, mrl_option
from training.data.datasets import FAR_SIDE, LabelledCrop, labels_of, shrunk
from training.data.labels import read_held_out
from training.data.split import split_mrl
from training.evaluation import behaviour, calibration, quality_limits
from training.evaluation.compare import SCORED, TestSet, compare
from training.export.bundle import FAR_SAMPLE
from training.export.cascade import cached_scores
from training.files import write_json

DRAWN, SAMPLED = 100, 500  # crops of each kind that a behavioural test takes at most


@click.command("compare")
@crops_option
@mrl_option
@human_labels_option
@click.option("--runs", type=Folder, default=Path("runs"), show_default=True)
@click.option("--output", type=Folder, default=Path("runs/compare"), show_default=True)
def compare_command(crops: Path, mrl: Path, human_labels: Path, runs: Path, output: Path) -> None:
    """Compare all networks on crops that none was trained on: held-out ones, and MRL's test subjects.

    This is the final comparison: nothing may be chosen by its results.
    """
    subjects = split_mrl(mrl).test[::SCORED]
    held_out = read_held_out(crops, human_labels)
    tests = [
        TestSet("held_out", "held-out crops of the unlabelled set on which two or more people agree", held_out),
        TestSet("mrl_test", f"MRL test subjects, one crop in {SCORED}", subjects),
        TestSet("mrl_test_far", f"the same, shrunk to {FAR_SIDE} px", [shrunk(crop) for crop in subjects]),
    ]
    for attempt in compare([test for test in tests if test.crops], runs, output):
        figures = ", ".join(f"{name} {eer['value']:.4f}" for name, eer in attempt["eer"].items()) or "not run"
        click.echo(f"{attempt['name']}: {figures}")


@click.command("calibration")
@crops_option
@mrl_option
@human_labels_option
@click.option("--model", default="final_best", show_default=True, help="Name of a bundle, or path of its folder.")
@click.option("--cache", type=Folder, default=Path("runs/scores"), show_default=True, help="Folder to cache scores in.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file.  [default: reports/MODEL/calibration.json]")
def calibration_command(
    *, crops: Path, mrl: Path, human_labels: Path, model: str, cache: Path, output: Path | None
) -> None:
    """Measure how well a bundle's scores are calibrated; `card` puts the results into its card.

    On MRL's validation subjects, each left out in turn, temperature and isotonic regression are held against the scores
    as they are; on crops that chose nothing, the expected calibration error is measured.
    """
    scorer = load(model)
    split = split_mrl(mrl)
    validation = [*split.val, *map(shrunk, split.val[::FAR_SAMPLE])]
    seen, labels = cached_scores(scorer, validation, cache), labels_of(validation)
    fits = calibration.compare(seen, labels, [str(crop.subject) for crop in validation])
    tests: dict[str, Sequence[LabelledCrop]] = {
        "MRL test subjects": split.test,
        f"the same, shrunk to {FAR_SIDE} px": [*map(shrunk, split.test)],
    }
    if human_labels.exists():
        tests["held-out crops of the unlabelled set"] = read_held_out(crops, human_labels)
    errors = {
        name: calibration.errors(seen, labels, cached_scores(scorer, test, cache), labels_of(test))
        for name, test in tests.items()
    }
    name = scorer.manifest.name
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
@human_labels_option
@click.option("--model", default="final_best", show_default=True, help="Name of a bundle, or path of its folder.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file.  [default: reports/MODEL/behaviour.json]")
def behaviour_command(*, mrl: Path, crops: Path, human_labels: Path, model: str, output: Path | None) -> None:
    """Test which changes of a crop alter a bundle's verdict, and which must lower its score.

    `card` puts the results into the model card. Takes minutes for a large network.
    """
    real = []
    if mrl.exists():
        real.append(behaviour.sample("MRL test subjects", split_mrl(mrl).test, SAMPLED))
    if crops.exists() and human_labels.exists():
        real.append(behaviour.sample("held-out", read_held_out(crops, human_labels), SAMPLED))
    results = behaviour.behaviour(load(model), behaviour.generated(DRAWN), real)
    path = output or Path("reports") / results.model / "behaviour.json"
    behaviour.write(results, path)
    click.echo(behaviour.table(results))
    click.echo("\n".join(results.failures) or "everything passed")
    click.echo(f"wrote {path}")


@click.command("quality-limits")
@mrl_option
@click.option("--model", default="final_best", show_default=True, help="Name of a bundle, or path of its folder.")
def quality_limits_command(mrl: Path, model: str) -> None:
    """Measure a bundle's errors on crops made darker, brighter, more blurred and smaller."""
    crops = split_mrl(mrl).val[:: quality_limits.SCORED]
    click.echo(quality_limits.table(quality_limits.quality_limits(load(model), crops)))
