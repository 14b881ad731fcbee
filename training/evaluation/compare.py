"""The final comparison: every network of the pipeline on the same crops, none of which any was trained on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from eyestate.atomic import write_atomically
from training.data.datasets import LabelledCrop, fingerprint, labels_of
from training.data.labels import read_answers
from training.evaluation.eer import Scores
from training.evaluation.intervals import bootstrap_eer
from training.labelling.pseudo_label import human_labels
from training.models.classifier import load_classifier, predict_views
from training.models.learner import predict
from training.runs import outcome, sha256


@dataclass(frozen=True, slots=True)
class Attempt:
    """A way to make a classifier.

    ``runs`` are patterns below the folder of the runs; several networks answer with the mean of their scores.
    ``views`` also averages over mirrored and enlarged views of each crop, which costs four times the computation.
    """

    name: str
    what: str
    runs: tuple[str, ...]
    answers: tuple[str, ...] = ()
    views: bool = False


SCORED: Final = 5  # every so many of MRL's test crops are scored: video frames are much alike
ANSWERS: Final = ("label_1/answers.csv", "label_2/answers.csv")
FOLDS_1, FOLDS_2 = "self_train_1/round_{}/fold_*", "self_train_2/round_{}/fold_*"

ATTEMPTS: Final = (
    Attempt("kaggle_model", "MRL alone", ("kaggle_model",)),
    Attempt(
        "best_1000", "baseline: kaggle_model fine-tuned on the crops on which the clusterings agree", ("best_1000",)
    ),
    Attempt(
        "final_baseline",
        "baseline: kaggle_model fine-tuned on agreed crops, best_1000's labels and people's answers",
        ("final_baseline",),
        ANSWERS[:1],
    ),
    Attempt("self_train_1_round_1", "self-training, first round, two networks", (FOLDS_1.format(1),)),
    Attempt("self_train_1_round_2", "self-training, second round, two networks", (FOLDS_1.format(2),)),
    Attempt("self_train_2_round_1", "a round more, with people's answers, two networks", (FOLDS_2.format(1),), ANSWERS),
    Attempt("final_best", "kaggle_model fine-tuned on MRL and on all beliefs and answers", ("final_best",), ANSWERS),
    Attempt("final_best_views", "final_best asked about four views of each crop", ("final_best",), ANSWERS, views=True),
)


@dataclass(frozen=True, slots=True)
class TestSet:
    """Labelled crops to compare on."""

    name: str
    what: str
    crops: Sequence[LabelledCrop]


def compare(tests: Sequence[TestSet], runs: Path, output: Path) -> list[dict[str, Any]]:
    """Score all test sets with every attempt that has been run and sum up in ``output/comparison.json``.

    Scores are kept in ``output/scores/<attempt>-<test>.json`` and computed anew only when a network or a test set is
    another one.

    Args:
        tests: what to compare on; no crop of theirs may have been learnt from.
        runs: the folder of the runs.
        output: the folder for the results.

    Returns:
        Of each attempt: name, description, number of crops that people decided, number of networks and the EER on
        each test, with its 95 % interval. An attempt that has not been run has no EERs.
    """
    rows: list[dict[str, Any]] = []
    for attempt in ATTEMPTS:
        members = sorted(member for pattern in attempt.runs for member in runs.glob(pattern))
        decided = {
            item.file
            for name in attempt.answers
            if (runs / name).exists()
            for item in human_labels(read_answers(runs / name).values())
        }
        row: dict[str, Any] = {"name": attempt.name, "what": attempt.what, "human_labels": len(decided)}
        eers = {}
        for test in tests if members else ():
            scores = _scores(attempt, members, test, output / "scores" / f"{attempt.name}-{test.name}.json")
            labels = labels_of(test.crops)
            subjects = [str(crop.subject) for crop in test.crops]
            eers[test.name] = dataclasses.asdict(
                bootstrap_eer(scores, labels, None if subjects[0] == "None" else subjects)
            )
        rows.append(row | {"networks": len(members), "eer": eers})
    result = {
        "tests": [
            {
                "name": test.name,
                "what": test.what,
                "crops": len(test.crops),
                "open": int(labels_of(test.crops).sum()),
                "subjects": len({crop.subject for crop in test.crops if crop.subject is not None}),
            }
            for test in tests
        ],
        "attempts": rows,
    }
    write_atomically(output / "comparison.json", json.dumps(result, indent=2) + "\n")
    return rows


def _scores(attempt: Attempt, members: Sequence[Path], test: TestSet, cache: Path) -> Scores:
    key = [fingerprint(test.crops), *(sha256(outcome(run)) for run in members)]
    if cache.exists():
        kept = json.loads(cache.read_text())
        if kept["key"] == key:
            return np.array(kept["scores"])
    ask = predict_views if attempt.views else predict
    scores: Scores = np.stack([ask(load_classifier(outcome(run)), test.crops) for run in members]).mean(axis=0)
    kept = {"key": key, "labels": labels_of(test.crops).tolist(), "scores": scores.tolist()}
    write_atomically(cache, json.dumps(kept))
    return scores
