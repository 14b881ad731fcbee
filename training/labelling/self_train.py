"""Cross-fitted self-training: no network labels crops that it was trained on.

In every round the crops are dealt into folds. For each fold a network is fine-tuned on the labelled data set and on
those crops of the other folds that are believed with confidence, under strong augmentation; it then scores
its own fold. So no label reinforces itself, as in plain self-training (Xie et al. 2020,
"Noisy Student"), and the beliefs' errors can be found as in confident learning (Northcutt et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from sklearn.model_selection import KFold

from eyestate.atomic import atomic_writer
from training.data.datasets import Crop
from training.data.labels import Answer, Label, write_labels
from training.data.split import Split
from training.evaluation.eer import Scores
from training.labelling.pseudo_label import TRUSTED, pseudo_labels, soft_targets
from training.models.classifier import Settings, load_classifier, predict_views, train

FOLDS: Final = 2


def self_train(
    labelled: Split,
    pool: Sequence[Crop],
    output: Path,
    *,
    beliefs: Mapping[str, float],
    answers: Mapping[str, Answer],
    settings: Settings,
    start: Path,
    rounds: int,
) -> list[Label]:
    """Run rounds of cross-fitted self-training; a killed one continues at the network it was training.

    Args:
        labelled: MRL; train is mixed in, val is only monitored.
        pool: unlabelled crops.
        output: ``round_<r>/fold_<k>`` are runs, ``round_<r>/beliefs.csv`` what is believed after a round.
        beliefs: P(open) by file that the first round starts from, from networks not trained on these crops.
        answers: what people said, by file; they count in every fold but a crop's own.
        settings: of each network.
        start: the run whose weights every network starts from.
        rounds: at least 1.

    Returns:
        The beliefs after the last round, as verdicts; also in ``output/beliefs.csv``.
    """
    verdicts: list[Label] = []
    for number in range(1, rounds + 1):
        scores = np.zeros(len(pool))
        folding = KFold(FOLDS, shuffle=True, random_state=settings.seed + number)
        for fold, (others, own) in enumerate(folding.split(np.arange(len(pool)))):
            targeted = soft_targets([pool[i] for i in others], beliefs, answers)
            believed = [crop for crop in targeted if crop.name in answers or sure(crop)]
            run = output / f"round_{number}" / f"fold_{fold}"
            checkpoint = train(Split([*labelled.train, *believed], labelled.val, []), settings, run, start=start)
            found = run / "scores.npy"
            if not found.exists():
                save(found, predict_views(load_classifier(checkpoint), [pool[i] for i in own]))
            scores[own] = np.load(found)
        verdicts = pseudo_labels(pool, scores)
        write_labels(output / f"round_{number}" / "beliefs.csv", verdicts)
        beliefs = {crop.name: float(score) for crop, score in zip(pool, scores, strict=True)}
    write_labels(output / "beliefs.csv", verdicts)
    return verdicts


def sure(crop: Crop) -> bool:
    """The crop's target is within ``TRUSTED`` of 0 or 1."""
    return crop.target is not None and not TRUSTED < crop.target < 1 - TRUSTED


def save(path: Path, scores: Scores) -> None:
    """Write the scores as npy; the file is there whole or not at all."""
    with atomic_writer(path) as file:
        np.save(file, scores, allow_pickle=False)
