"""Pseudo-labels: a network labels the crops it is sure of; the others are queued for a person, least sure first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from training.data.datasets import CLOSED, MRL, OPEN, Crop, LabelledCrop
from training.data.labels import Answer, Label, write_labels
from training.evaluation.eer import Scores
from training.files import write_json

TRUSTED: Final = 0.05  # a score within this of 0 or 1 is believed: the report's 0.05 and 0.95
RELIABILITY: Final = 0.8  # of one person's answer on a crop that the network doubts; on easy ones people do better
LABEL_RELIABILITY: Final = 0.97  # of a label that a program or a folder gave, as people found who looked at some


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
    """The crops with what to train them towards: the network's belief, updated by people's answers where there are any.

    By Bayes' rule every vote multiplies the odds of "open" by the odds that a person is right (``RELIABILITY``), so
    that votes decide a doubtful crop and do not overturn a sure one, and people who disagree count for little.

    Args:
        crops: unlabelled crops.
        beliefs: P(open) by file, for every crop, from networks that were not trained on it.
        answers: what people said, by file.
    """
    targeted = []
    for crop in crops:
        answer = answers.get(crop.name)
        votes = 0 if answer is None or answer.label is None else 2 * answer.votes_open - answer.annotators
        p = _posterior(beliefs[crop.name], votes, RELIABILITY)
        targeted.append(crop.labelled(round(p), target=p))
    return targeted


def doubt_labels(crops: Iterable[LabelledCrop], scores: Scores) -> list[LabelledCrop]:
    """The crops with what to train them towards: their label, in the light of what networks say that never saw them.

    MRL's labels stand: they come with its videos. Of the others some are wrong (``LABEL_RELIABILITY``).

    Args:
        crops: N labelled crops.
        scores: (N,) P(open) by networks that were not trained on them.
    """
    return [
        crop
        if crop.collection == MRL
        else crop.labelled(crop.label, target=_posterior(float(score), 2 * crop.label - 1, LABEL_RELIABILITY))
        for crop, score in zip(crops, scores, strict=True)
    ]


def _posterior(p: float, votes: int, reliability: float) -> float:
    """P(open) after ``votes`` more for open than for closed, each right with a probability of ``reliability``."""
    p = min(max(p, 1e-3), 1 - 1e-3)
    return float(1 / (1 + np.exp(-(np.log(p / (1 - p)) + votes * np.log(reliability / (1 - reliability))))))


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
