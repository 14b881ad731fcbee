"""Fine-tune a trained classifier on labelled crops, and test it on a random part of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sklearn.model_selection import train_test_split

from training.data.datasets import DataError, LabelledCrop, labels_of
from training.data.split import Split
from training.evaluation.intervals import bootstrap_eer
from training.files import write_json
from training.models.classifier import Settings, load_classifier, train
from training.models.learner import Device, predict
from training.runs import outcome


def fine_tuning_settings(start: Path, **chosen: float) -> Settings:
    """The settings of the network in the run ``start``, to be trained to the end of a schedule of its own.

    Args:
        start: a run.
        chosen: settings to replace.

    Raises:
        DataError: ``start`` holds no run.
    """
    return dataclasses.replace(load_classifier(outcome(start)).settings, patience=0, **chosen)  # type: ignore[arg-type]


def fine_tune(
    crops: Sequence[LabelledCrop],
    settings: Settings,
    output: Path,
    *,
    start: Path,
    test_share: float,
    sources: Mapping[str, int],
    device: Device = "auto",
) -> dict[str, Any]:
    """Fine-tune the network of ``start`` on a random part of the crops, and test it on the others.

    Args:
        crops: labelled ones.
        settings: of the training.
        output: the folder of the run.
        start: the run to start from.
        test_share: share of the crops to test on.
        sources: of the labels, to record.
        device: to train on.

    Returns:
        The numbers of training and test crops, and the EER on the latter, with its 95 % interval, after fine-tuning and
        before; also in ``output/own_test.json``.

    Raises:
        DataError: there are too few crops to divide, or ``start`` holds no run.
    """
    try:
        train_part, test = train_test_split(crops, test_size=test_share, stratify=labels_of(crops), random_state=0)
    except ValueError as error:
        raise DataError(f"cannot divide {len(crops)} labelled crops into train and test: {error}") from None
    trained = train(Split(train_part, test, []), settings, output, start=start, device=device)
    labels = labels_of(test)
    eers = {
        name: dataclasses.asdict(bootstrap_eer(predict(load_classifier(checkpoint), test), labels))
        for name, checkpoint in (("eer", trained), ("eer_before", outcome(start)))
    }
    result = {"train": len(train_part), "test": len(test), "sources": dict(sources), **eers}
    write_json(output / "own_test.json", result)
    return result
