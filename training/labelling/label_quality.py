"""How accurate labels are, by people's answers on the same crops. It reports; nothing may be chosen by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from training.data.datasets import CLOSED, OPEN
from training.data.labels import Answer, Label
from training.evaluation.intervals import Interval, wilson


@dataclass(frozen=True, slots=True)
class Quality:
    """Agreement with people, with Wilson's 95 % intervals; None where nothing could be compared.

    ``precision_closed`` is the share of the crops labelled closed that people call closed, ``precision_open`` likewise.
    """

    n: int
    accuracy: Interval | None
    precision_closed: Interval | None
    precision_open: Interval | None


def label_quality(labels: Iterable[Label], answers: Mapping[str, Answer]) -> dict[str, Quality]:
    """Compare labels with people's, on the crops that both decide.

    Args:
        labels: of crops of the pool; held-out crops are not to be looked at here.
        answers: what people said, by file.

    Returns:
        ``unanimous``: only crops on which at least two people decided, all alike. ``all``: every majority counts.
    """
    pairs = [
        (item.label, answers[item.file])
        for item in labels
        if item.label is not None and item.file in answers and answers[item.file].label is not None
    ]
    return {
        "unanimous": _quality([(label, answer.label) for label, answer in pairs if answer.unanimous]),
        "all": _quality([(label, answer.label) for label, answer in pairs]),
    }


def _quality(pairs: list[tuple[int, int | None]]) -> Quality:
    def precision(side: int) -> Interval | None:
        truths = [truth for label, truth in pairs if label == side]
        return wilson(truths.count(side), len(truths))

    right = sum(label == truth for label, truth in pairs)
    return Quality(len(pairs), wilson(right, len(pairs)), precision(CLOSED), precision(OPEN))
