"""The commands that write bundles: networks, the cascade, the face detector, and model cards."""

from __future__ import annotations

from pathlib import Path

import click

from eyestate.atomic import write_atomically
from eyestate.bundle import load_bundle, load_model, models_dir
from eyestate.mtcnn import FOLDER
from training.commands.options import (
    Folder,
    crops_option,
    held_out_labels_option,
    human_labels_option,
    max_wrong_option,
    mrl_option,
    people_option,
    read_judging,
    reports_option,
    runs_option,
)
from training.data.datasets import read_people
from training.data.split import read_pool
from training.export.bundle import export_run, strangers_file
from training.export.card import card
from training.export.cascade import make_cascade
from training.export.detector import export_detector
from training.models.strangers import Strangers


@click.command("export")
@mrl_option
@people_option
@crops_option
@held_out_labels_option
@human_labels_option
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    default=Path("runs/final_best"),
    show_default=True,
    help="Folder of a committee, or of a distillation.",
)
@click.option("--name", default="final_best", show_default=True, help="Name of the bundle.")
@click.option("--version", default="1.0.0", show_default=True, help="Version of the bundle.")
@click.option("--models", type=click.Path(path_type=Path), default=models_dir, show_default="models/")
@reports_option
@max_wrong_option
@runs_option
def export_command(
    *,
    mrl: Path,
    people: tuple[Path, ...],
    crops: Path,
    held_out_labels: Path,
    human_labels: Path,
    run: Path,
    name: str,
    version: str,
    models: Path,
    reports: Path,
    max_wrong: float,
    runs: Path,
) -> None:
    """Judge a trained network by strangers and held-out crops, and write its bundle; `card` writes its model card.

    Where the held-out crops have no labels, people never seen alone judge. Where the unlabelled crops are missing, the
    service will have nothing to measure drift from.
    """
    bundle = export_run(
        run,
        read_people(mrl, people),
        models,
        name=name,
        version=version,
        results=reports / name,
        output=strangers_file(runs, name),
        max_wrong=max_wrong,
        held_out=read_judging(crops, held_out_labels, human_labels),
        reference_crops=read_pool(crops) if crops.exists() else [],
    )
    for metric in bundle.manifest.metrics:
        click.echo(f"{metric.name}: {metric.value:.4f} ({metric.low:.4f} to {metric.high:.4f}, {metric.interval})")
    click.echo(f"wrote {bundle.path}")


@click.command("cascade")
@crops_option
@mrl_option
@people_option
@held_out_labels_option
@human_labels_option
@click.option("--small", default="final_best_lite", show_default=True, help="Bundle that scores every crop.")
@click.option("--large", default="final_best", show_default=True, help="Bundle to which crops are deferred.")
@click.option("--name", default="cascade", show_default=True)
@click.option("--version", default="1.0.0", show_default=True)
@click.option("--models", type=click.Path(path_type=Path), default=models_dir, show_default="models/")
@reports_option
@max_wrong_option
@runs_option
@click.option("--cache", type=Folder, default=Path("runs/scores"), show_default=True, help="Folder to cache scores in.")
def cascade_command(
    *,
    crops: Path,
    mrl: Path,
    people: tuple[Path, ...],
    held_out_labels: Path,
    human_labels: Path,
    small: str,
    large: str,
    name: str,
    version: str,
    models: Path,
    reports: Path,
    max_wrong: float,
    runs: Path,
    cache: Path,
) -> None:
    """Choose the deferral band, evaluate both networks together and write the cascade's bundle."""
    labelled = read_people(mrl, people)
    path = make_cascade(
        load_bundle(models / small),
        load_bundle(models / large),
        labelled,
        (
            Strangers.read(strangers_file(runs, small), labelled, "export"),
            Strangers.read(strangers_file(runs, large), labelled, "export"),
        ),
        models,
        name=name,
        version=version,
        results=reports / name,
        max_wrong=max_wrong,
        held_out=read_judging(crops, held_out_labels, human_labels),
        reference_crops=read_pool(crops),
        cache=cache,
        output=strangers_file(runs, name),
    )
    for metric in load_model(path).manifest.metrics:
        click.echo(f"{metric.name}: {metric.value:.4f} ({metric.low:.4f} to {metric.high:.4f}, {metric.interval})")
    click.echo(f"wrote {path}")


@click.command("export-detector")
@click.option("--models", type=click.Path(path_type=Path), default=models_dir, show_default="models/")
def export_detector_command(models: Path) -> None:
    """Write models/mtcnn, the face detector, from the weights that facenet-pytorch ships."""
    detector = export_detector(models)
    click.echo(f"wrote {models / FOLDER}; ONNX Runtime and PyTorch differ by {detector.description.parity:.1e}")


@click.command("card")
@click.option("--model", default="final_best", show_default=True, help="Name of a bundle.")
@click.option("--models", type=click.Path(path_type=Path), default=models_dir, show_default="models/")
@click.option(
    "--reports", type=Folder, default=Path("reports"), show_default=True, help="Folder of the results of all models."
)
def card_command(model: str, models: Path, reports: Path) -> None:
    """Render a bundle's model card from its manifest and its results in reports/."""
    bundle = load_model(models / model)
    path = bundle.path / "README.md"
    write_atomically(path, card(bundle.manifest, reports / model))
    click.echo(f"wrote {path}")
