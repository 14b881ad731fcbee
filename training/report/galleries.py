"""Galleries of crops, for the page only."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from PIL import Image

from eyestate.images import decode
from training.data.datasets import CLOSED, OPEN, Crop, LabelledCrop, labels_of
from training.data.labels import WORDS, Label
from training.evaluation.eer import Scores
from training.report.content import Block, Gallery, Paragraph, Tile

ENLARGED: Final = 4
SHOWN: Final = 96  # of the wrong predictions, the most confident first
SAMPLED: Final = 24  # of the right predictions, by state
COLLECTION: Final = "collection's labels"  # what held-out crops are judged by


def disagreements(crops: Sequence[Crop], labels: Sequence[Label], beliefs: Mapping[str, float]) -> list[Block]:
    """Figure 5: the labelled crops that a network scores on the other side of 0.5."""
    by_name = {crop.name: crop for crop in crops}
    labelled = [item for item in labels if item.label is not None and item.file in beliefs and item.file in by_name]
    wrong = [item for item in labelled if (beliefs[item.file] >= 0.5) != (item.label == OPEN)]
    return _wrong(
        "Figure 5. Crops on which kaggle_model and the agreed clusterings differ",
        [by_name[item.file] for item in wrong],
        np.array([beliefs[item.file] for item in wrong]),
        [WORDS[item.label] for item in wrong],
        "clusterings",
        of=len(labelled),
    )


def predictions(crops: Sequence[LabelledCrop], scores: Scores) -> list[Block]:
    """Figures 6 and 7: a sample of the labelled crops on the right side of 0.5, and those on the wrong side."""
    labels = labels_of(crops)
    right = (scores >= 0.5) == (labels == OPEN)
    random = np.random.default_rng(0)
    sampled = [
        int(i)
        for label in (CLOSED, OPEN)
        for i in np.sort(random.permutation(np.flatnonzero(right & (labels == label)))[:SAMPLED])
    ]
    wrong = np.flatnonzero(~right).tolist()
    return [
        Gallery(
            "Figure 6. Right predictions of final_best on all held-out crops",
            [_tile(crops[i], scores[i], COLLECTION, WORDS[crops[i].label]) for i in sampled],
            f"A random sample of the {right.sum():,} of {len(crops):,} held-out crops that final_best scores on the "
            f"same side of 0.5 as the {COLLECTION}.",
        ),
        *_wrong(
            "Figure 7. Wrong predictions of final_best on all held-out crops",
            [crops[i] for i in wrong],
            scores[wrong],
            [WORDS[crops[i].label] for i in wrong],
            COLLECTION,
            of=len(crops),
        ),
    ]


def _wrong(
    title: str, crops: Sequence[Crop], scores: Scores, words: Sequence[str], judge: str, *, of: int
) -> list[Block]:
    if not crops:
        return [Paragraph(f"{title}: there are none among {of:,} crops.")]
    surest = np.argsort(-np.abs(scores - 0.5), kind="stable")[:SHOWN]
    caption = f"{len(crops):,} of {of:,} crops are scored on the side of 0.5 that the {judge} contradict, surest first"
    return [
        Gallery(
            title,
            [_tile(crops[i], scores[i], judge, words[i]) for i in surest],
            f"{caption}; {len(surest):,} are shown." if len(surest) < len(crops) else f"{caption}.",
        )
    ]


def _tile(crop: Crop, score: float, judge: str, word: str) -> Tile:
    image = Image.fromarray(decode(crop.data))
    file = io.BytesIO()
    image.resize((image.width * ENLARGED, image.height * ENLARGED), Image.Resampling.LANCZOS).save(file, "PNG")
    return Tile(file.getvalue(), f"{crop.name}: score {score:.3f}, {judge}: {word}")
