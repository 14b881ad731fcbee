"""Labels from clusterings: what all good ones agree on, what most of them say, and what a network confirms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from training.data.datasets import CLOSED, OPEN, DataError
from training.data.labels import Answer, Label
from training.evaluation.eer import Scores
from training.labelling.cluster import UNDECIDED, Clusters, Space, sides
from training.labelling.label_quality import label_quality
from training.labelling.pseudo_label import TRUSTED

Votes = npt.NDArray[np.int64]  # (clusterings, N): 0 closed, 1 open, UNDECIDED where a clustering calls a crop noise

UNANIMOUS: Final = "labels"  # the variants, by the name of their file
MAJORITY: Final = "majority"
VIEWS: Final = "views"


def good_votes(rows: Sequence[Mapping[str, Any]], assignments: Mapping[str, Clusters]) -> dict[str, Clusters]:
    """The sides (N,) that each good clustering gives the crops, by its name.

    Raises:
        DataError: no clustering is good.
    """
    votes = named_sides([row for row in rows if row["good"]], assignments)
    if not votes:
        reasons = "; ".join(f"{row['name']}: {row['why_not']}" for row in rows if row["tuned"])
        raise DataError(f"no clustering is good enough to label by: {reasons}")
    return votes


def named_sides(rows: Sequence[Mapping[str, Any]], assignments: Mapping[str, Clusters]) -> dict[str, Clusters]:
    """The sides (N,) that each clustering gives the crops, of those that separate."""
    return {
        row["name"]: sides(assignments[row["name"]], dict(enumerate(row["sides"])))
        for row in rows
        if row["sides"] is not None
    }


def vote_shares(votes: Votes) -> Scores:
    """The share of "open" among the clusterings that put a crop into a cluster (N,); NaN where none does."""
    decided = (votes != UNDECIDED).sum(axis=0)
    n_open = (votes == OPEN).sum(axis=0)
    return np.where(decided > 0, n_open / np.maximum(decided, 1), np.nan)


def unanimous(votes: Votes) -> Clusters:
    """The side (N,) that every clustering gives a crop; ``UNDECIDED`` where one differs or calls the crop noise."""
    return np.where((votes == votes[0]).all(axis=0), votes[0], UNDECIDED)


def majority(votes: Votes) -> Clusters:
    """The side (N,) that most clusterings give a crop; ``UNDECIDED`` on a tie, or where all call it noise."""
    shares = vote_shares(votes)
    return np.select([shares > 0.5, shares < 0.5], [OPEN, CLOSED], UNDECIDED)


def confirmed(labels: Clusters, scores: Scores) -> Clusters:
    """The sides (N,) that a network confirms with P(open) within ``TRUSTED`` of 0 or 1; ``UNDECIDED`` elsewhere.

    Two views that share no training data rarely err alike (co-training, Blum & Mitchell 1998).
    """
    verdicts = np.select([scores >= 1 - TRUSTED, scores <= TRUSTED], [OPEN, CLOSED], UNDECIDED)
    return np.where(labels == verdicts, labels, UNDECIDED)


def variants(votes: Votes, scores: Scores) -> dict[str, Clusters]:
    """The three ways to label the crops by clusterings: sides (N,) by name."""
    agreed = unanimous(votes)
    return {UNANIMOUS: agreed, MAJORITY: majority(votes), VIEWS: confirmed(agreed, scores)}


def to_labels(files: Sequence[str], labels: Clusters, shares: Scores) -> list[Label]:
    """A label for each decided crop, with the share of votes for open as P(open)."""
    return [
        Label(file, int(label), float(share), "consensus")
        for file, label, share in zip(files, labels, shares, strict=True)
        if label != UNDECIDED
    ]


def summary(
    labels: list[Label], sides: Clusters, spaces: Sequence[Space], answers: Mapping[str, Answer] | None
) -> dict[str, Any]:
    """What is kept, how compact the two sides are in each feature space, and how right people find the labels."""
    result: dict[str, Any] = {
        "kept": len(labels),
        "share": len(labels) / len(sides),
        "closed": sum(item.label == CLOSED for item in labels),
        "open": sum(item.label == OPEN for item in labels),
        "silhouette": {space.feature: space.silhouette(sides) for space in spaces},
    }
    if answers is not None:
        result["quality"] = quality(labels, answers)
    return result


def quality(labels: list[Label], answers: Mapping[str, Answer]) -> dict[str, Any]:
    """``label_quality`` as JSON can hold it."""
    return {kind: dataclasses.asdict(found) for kind, found in label_quality(labels, answers).items()}
