"""Pseudo-labels: a network labels the crops it is sure of; the others are queued for a person, least sure first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from training.data.datasets import CLOSED, OPEN, Crop, LabelledCrop
from training.data.labels import Answer, Label, write_labels
from training.evaluation.eer import Scores
from training.files import write_json

TRUSTED: Final = 0.05  # a score within this of 0 or 1 is believed: the report's 0.05 and 0.95
RELIABILITY: Final = 0.9  # of a person's answer on a crop that the network doubts; on easy ones people do better


def pseudo_labels(crops: Sequence[Crop], scores: Scores) -> list[Label]:
    """The network's verdict on each crop; the label is None where its score is more than ``TRUSTED`` from 0 and 1.

    Args:
        crops: N unlabelled crops.
        scores: (N,) P(open).
    """
    return [
        Label(crop.name, CLOSED if score <= TRUSTED else OPEN if score >= 1 - TRUSTED else None, float(score), "pseudo")
        for crop, score in zip(crops, scores, strict=True)
    ]


def queue(labels: Iterable[Label], budget: int, asked: Collection[str] = ()) -> list[Label]:
    """The crops to ask a person about: those without a label, nearest to 0.5 first, at most ``budget`` of them.

    Args:
        labels: verdicts of a network.
        budget: crops that may still be asked about.
        asked: files that a person has been asked about before.
    """
    open_questions = [item for item in labels if item.label is None and item.file not in asked]
    return sorted(open_questions, key=lambda item: (abs((item.p_open or 0) - 0.5), item.file))[:budget]


def human_labels(answers: Iterable[Answer]) -> list[Label]:
    """The answers of a person as labels, without those that could not be told."""
    return [Label(answer.file, answer.label, None, "human") for answer in answers if answer.label is not None]


def merge(*sources: Iterable[Label]) -> list[Label]:
    """The labels of several sources by file; where two sources label a crop, the later one counts."""
    merged: dict[str, Label] = {}
    for labels in sources:
        merged |= {item.file: item for item in labels if item.label is not None}
    return [merged[file] for file in sorted(merged)]


def soft_targets(
    crops: Iterable[Crop], beliefs: Mapping[str, float], answers: Mapping[str, Answer]
) -> list[LabelledCrop]:
    """The crops with what to train them towards: the network's belief, updated by a person's answer where there is one.

    By Bayes' rule an answer multiplies the odds of "open" by the odds that a person is right (``RELIABILITY``), so
    that an answer decides a doubtful crop and does not overturn a sure one.

    Args:
        crops: unlabelled crops.
        beliefs: P(open) by file, for every crop, from networks that were not trained on it.
        answers: what people said, by file.
    """
    targeted = []
    for crop in crops:
        p = min(max(beliefs[crop.name], 1e-3), 1 - 1e-3)
        answer = answers.get(crop.name)
        if answer is not None and answer.label is not None:
            evidence = np.log(RELIABILITY / (1 - RELIABILITY)) * (1 if answer.label == OPEN else -1)
            p = float(1 / (1 + np.exp(-(np.log(p / (1 - p)) + evidence))))
        targeted.append(crop.labelled(round(p), target=p))
    return targeted


def write_queue(verdicts: Sequence[Label], questions: Sequence[Label], output: Path) -> dict[str, int]:
    """Write ``labels.csv``, the trusted labels, ``queue.csv``, the questions in their order, and ``counts.json``.

    Returns:
        How many crops are trusted, in doubt and queued.
    """
    trusted = [item for item in verdicts if item.label is not None]
    write_labels(output / "labels.csv", trusted)
    write_labels(output / "queue.csv", questions)
    counts = {"trusted": len(trusted), "in_doubt": len(verdicts) - len(trusted), "queued": len(questions)}
    write_json(output / "counts.json", counts)
    return counts
