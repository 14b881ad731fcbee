"""The command that trains a cross-validation committee."""

from __future__ import annotations

from pathlib import Path

import click

from training.commands.options import (
    Folder,
    answers_option,
    backbone_option,
    crops_option,
    device_option,
    mrl_option,
    people_option,
    shares_option,
)
from training.commands.pseudo_label import echo_counts
from training.data.datasets import read_people
from training.data.labels import BUDGET, read_all_answers, read_beliefs
from training.data.split import read_pool
from training.labelling.pseudo_label import doubt_labels, queue, soft_targets, write_queue
from training.models.committee import BELIEFS, train_committee
from training.models.learner import Device
from training.models.member import MemberSettings
from training.models.strangers import FILE, Strangers

DEFAULT = MemberSettings()


@click.command("committee")
@crops_option
@mrl_option
@people_option
@backbone_option
@shares_option
@click.option("--start", type=Folder, help="The committee to start from and to correct doubtful labels by.")
@answers_option
@click.option("--input-side", type=click.IntRange(min=32), default=DEFAULT.input_side, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=DEFAULT.epochs, show_default=True)
@click.option("--crops-per-epoch", type=click.IntRange(min=2), default=DEFAULT.crops_per_epoch, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=2), default=DEFAULT.batch_size, show_default=True)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=DEFAULT.learning_rate,
    show_default=True,
    help="Peak of the one-cycle schedule.",
)
@click.option(
    "--average-decay",
    type=click.FloatRange(min=0, max=1, max_open=True),
    default=DEFAULT.average_decay,
    show_default=True,
    help="Decay of the moving average of the weights, per step.",
)
@click.option("--seed", type=int, default=DEFAULT.seed, show_default=True)
@click.option(
    "--budget", type=click.IntRange(0, BUDGET), default=0, show_default=True, help="How many crops to queue at most."
)
@device_option
@click.option("--output", type=Folder, required=True, help="Folder for the members, their beliefs and the queue.")
def committee_command(
    *,
    crops: Path,
    mrl: Path,
    people: tuple[Path, ...],
    backbone: str,
    shares: tuple[tuple[str, float], ...],
    start: Path | None,
    answers: tuple[Path, ...],
    budget: int,
    device: Device,
    output: Path,
    **chosen: float,
) -> None:
    """Train a cross-validation committee: five networks, each of which never sees a fifth of the people.

    The first committee learns from labelled crops alone. One that starts from another also learns from the unlabelled
    crops, towards what that one believes of them and people's answers, and its labels of crops that MRL did not label
    count as doubtful. What is still in doubt afterwards can be queued for a person, the most doubtful first.
    """
    labelled = read_people(mrl, people)
    pool = read_pool(crops)
    asked = read_all_answers(answers)
    if start is not None:
        labelled = doubt_labels(labelled, Strangers.read(start / FILE, labelled).scores)
        pool = [*soft_targets(pool, read_beliefs(start / BELIEFS), asked)]
    settings = MemberSettings(backbone=backbone, **chosen)  # type: ignore[arg-type]  # click checks their types
    verdicts = train_committee(labelled, pool, settings, output, shares=dict(shares), start=start, device=device)
    echo_counts(write_queue(verdicts, queue(verdicts, budget, asked), output))
