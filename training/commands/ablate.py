"""The command that compares variants of a committee's member."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from eyestate.atomic import write_atomically
from eyestate.bundle import load_bundle
from training.commands.options import (
    Folder,
    backbone_option,
    crops_option,
    device_option,
    held_out_labels_option,
    mrl_option,
    people_option,
    shares_option,
    teacher_option,
)
from training.data.datasets import read_people
from training.data.labels import read_held_out
from training.data.split import read_pool
from training.models.ablation import ablate, believe, summary, write_outcomes
from training.models.committee import shipped_committee
from training.models.learner import Device, torch_device
from training.models.member import MemberSettings

DEFAULT = MemberSettings()


@click.command("ablate")
@crops_option
@mrl_option
@people_option
@held_out_labels_option
@teacher_option
@backbone_option
@shares_option
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Trainings of each variant.")
@click.option("--draws", type=click.IntRange(min=2), default=DEFAULT.crops_per_epoch, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=2), default=DEFAULT.batch_size, show_default=True)
@device_option
@click.option("--output", type=Folder, default=Path("runs/ablation"), show_default=True)
@click.option("--report", type=Folder, default=Path("reports/ablation"), show_default=True)
def ablate_command(
    *,
    crops: Path,
    mrl: Path,
    people: tuple[Path, ...],
    held_out_labels: Path,
    teacher: Path,
    backbone: str,
    shares: tuple[tuple[str, float], ...],
    seeds: int,
    draws: int,
    batch_size: int,
    device: Device,
    output: Path,
    report: Path,
) -> None:
    """Train short variants of a committee's member with several seeds, and judge each by people it never saw.

    Each variant differs from a member of the first committee in one thing: the data, what they are trained towards, the
    augmentation, the input's size, the weights to start from, the averaging, or the time. What is believed of doubtful
    and unlabelled crops is what the teacher's members say of those they did not learn from. Held-out crops judge too,
    where their labels are there; nothing is chosen by them.
    """
    settings = dataclasses.replace(
        DEFAULT, backbone=backbone, epochs=1, crops_per_epoch=draws, batch_size=batch_size, average_decay=0.98
    )
    held_out = read_held_out(crops, held_out_labels) if held_out_labels.exists() else []
    labelled = read_people(mrl, people)
    committee = shipped_committee(load_bundle(teacher)).to(torch_device(device))
    outcomes = ablate(
        labelled,
        believe(labelled, read_pool(crops), committee),
        held_out,
        settings,
        output,
        shares=dict(shares),
        seeds=range(seeds),
        device=device,
    )
    write_outcomes(outcomes, report / "eer.csv")
    text = summary(outcomes)
    write_atomically(report / "README.md", f"# Ablation study\n\n{text}")
    click.echo(text)
