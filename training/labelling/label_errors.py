"""Find labels that are likely wrong by confident learning (Northcutt et al. 2021), as cleanlab does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from training.data.datasets import CLOSED, OPEN
from training.data.labels import Label


def likely_wrong(labels: Sequence[Label], beliefs: Mapping[str, float]) -> set[str]:
    """The files whose label networks contradict more than their own doubts explain.

    Args:
        labels: those without a label or a belief are passed over.
        beliefs: P(open) by file, from networks that were not trained on these crops.
    """
    # imported here because it takes seconds and nothing else needs it
    from cleanlab.filter import find_label_issues  # type: ignore[import-untyped]  # noqa: PLC0415

    judged = [item for item in labels if item.label is not None and item.file in beliefs]
    given = np.array([item.label for item in judged])
    if set(given.tolist()) != {CLOSED, OPEN}:
        return set()  # confident learning compares classes
    p_open = np.array([beliefs[item.file] for item in judged])
    flags = find_label_issues(given, np.stack([1 - p_open, p_open], axis=1), n_jobs=1)
    return {item.file for item, flagged in zip(judged, flags, strict=True) if flagged}
