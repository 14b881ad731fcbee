"""The commands that fine-tune a network: on labelled crops alone, or mixed with MRL."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from training.commands.options import (
    File,
    Folder,
    answers_option,
    crops_option,
    mrl_option,
    settings_options,
    share_option,
    start_option,
)
from training.data.labels import apply, read_all_answers, read_beliefs, read_labels
from training.data.split import Split, fine_tuning_split, read_pool
from training.labelling.pseudo_label import human_labels, merge, soft_targets
from training.models.classifier import train
from training.models.fine_tuning import fine_tune, fine_tuning_settings
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
@click.option("--output", type=Folder, required=True, help="Folder of the run.")
def fine_tune_command(
    *,
    crops: Path,
    labels: tuple[Path, ...],
    answers: tuple[Path, ...],
    start: Path,
    test_share: float,
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
    )
    plot_history(history(output), output / "curves.png")
    click.echo(
        f"EER on {result['test']} test crops: {result['eer']['value']:.4f}, before {result['eer_before']['value']:.4f}"
    )


@click.command("mix")
@crops_option
@mrl_option
@click.option(
    "--beliefs", type=File, required=True, help="CSV of P(open) by networks that were not trained on these crops."
)
@answers_option
@start_option
@settings_options
@share_option
@click.option("--output", type=Folder, default=Path("runs/final_best"), show_default=True)
def mix_command(
    *,
    crops: Path,
    mrl: Path,
    beliefs: Path,
    answers: tuple[Path, ...],
    start: Path,
    output: Path,
    **chosen: float,
) -> None:
    """Fine-tune a network on MRL and all unlabelled crops, towards networks' beliefs and people's answers."""
    labelled = fine_tuning_split(mrl)
    targeted = soft_targets(read_pool(crops), read_beliefs(beliefs), read_all_answers(answers))
    train(
        Split([*labelled.train, *targeted], labelled.val, []),
        fine_tuning_settings(start, **chosen),
        output,
        start=start,
    )
    plot_history(history(output), output / "curves.png")
