"""The command that fine-tunes a network on labelled crops alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from training.commands.options import (
    File,
    Folder,
    answers_option,
    crops_option,
    device_option,
    settings_options,
    start_option,
)
from training.data.labels import apply, read_all_answers, read_labels
from training.data.split import read_pool
from training.labelling.pseudo_label import human_labels, merge
from training.models.fine_tuning import fine_tune, fine_tuning_settings
from training.models.learner import Device
from training.plots import plot_history
from training.runs import history


@click.command("fine-tune")
@crops_option
@click.option("--labels", type=File, multiple=True, required=True, help="Labels of the crops; later files win.")
@answers_option
@start_option
@settings_options
@click.option(
    "--test-share",
    type=click.FloatRange(min=0.05, max=0.5),
    default=0.2,
    show_default=True,
    help="Share of the labelled crops, at random, to test on instead of training on.",
)
@device_option
@click.option("--output", type=Folder, required=True, help="Folder of the run.")
def fine_tune_command(
    *,
    crops: Path,
    labels: tuple[Path, ...],
    answers: tuple[Path, ...],
    start: Path,
    test_share: float,
    device: Device,
    output: Path,
    **chosen: float,
) -> None:
    """Fine-tune a network on labelled crops of the unlabelled set alone, as the baseline does.

    The test part is a random share of the same labels, whoever gave them: it says how well the network repeats them,
    not how right they are. `python -m training report` judges by people's answers.
    """
    known = merge(*map(read_labels, labels), human_labels(read_all_answers(answers).values()))
    result = fine_tune(
        apply(read_pool(crops), known),
        fine_tuning_settings(start, **chosen),
        output,
        start=start,
        test_share=test_share,
        sources=Counter(item.source for item in known),
        device=device,
    )
    plot_history(history(output), output / "curves.png")
    click.echo(
        f"EER on {result['test']} test crops: {result['eer']['value']:.4f}, before {result['eer_before']['value']:.4f}"
    )
