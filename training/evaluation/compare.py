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
from training.models.classifier import load_classifier
from training.models.committee import load_committee, members
from training.models.learner import Learner, predict
from training.models.strangers import FILE, Strangers
from training.models.student import load_student
from training.runs import RECIPE, outcome, read_recipe, sha256


@dataclass(frozen=True, slots=True)
class Attempt:
    """A way to make a classifier: its run, and the people's answers that went into it."""

    name: str
    what: str
    answers: tuple[str, ...] = ()


ANSWERS: Final = ("label_1/answers.csv", "label_2/answers.csv")
ATTEMPTS: Final = (
    Attempt("kaggle_model", "the original's network, MRL alone"),
    Attempt("best_1000", "baseline: kaggle_model fine-tuned on the crops on which the clusterings agree"),
    Attempt(
        "final_baseline",
        "baseline: kaggle_model fine-tuned on agreed crops, best_1000's labels and people's answers",
        ANSWERS[:1],
    ),
    Attempt("committee", "five first halves of FaceNet, labelled crops alone"),
    Attempt("self_training", "the five, also towards beliefs about the unlabelled crops and answers", ANSWERS[1:]),
    Attempt("final_best", "the five, for longer, towards what those of self_training believe and answers", ANSWERS[1:]),
    Attempt("final_best_lite", "distilled from final_best", ANSWERS[1:]),
)


@dataclass(frozen=True, slots=True)
class TestSet:
    """Labelled crops to compare on."""

    name: str
    what: str
    crops: Sequence[LabelledCrop]


def compare(
    tests: Sequence[TestSet], labelled: Sequence[LabelledCrop], runs: Path, output: Path
) -> list[dict[str, Any]]:
    """Score all test sets with every attempt that has been run and sum up in ``output/comparison.json``.

    Crops of people that a committee or a student learnt from are scored by the network of its fold that never saw them.
    Scores are kept in ``output/scores/<attempt>-<test>.json`` and computed anew only when a network or a test set is
    another one.

    Args:
        tests: what to compare on.
        labelled: the crops of people that committees and students were given.
        runs: the folder of the runs.
        output: the folder for the results.

    Returns:
        Of each attempt: name, description, number of crops that people decided and the EER on each test, with its 95 %
        interval. An attempt that has not been run has no EERs.
    """
    rows: list[dict[str, Any]] = []
    for attempt in ATTEMPTS:
        run = runs / attempt.name
        decided = {
            item.file
            for name in attempt.answers
            if (runs / name).exists()
            for item in human_labels(read_answers(runs / name).values())
        }
        row: dict[str, Any] = {"name": attempt.name, "what": attempt.what, "human_labels": len(decided)}
        eers = {}
        for test in tests if (run / RECIPE).exists() else ():
            scores = _scores(run, test, labelled, output / "scores" / f"{attempt.name}-{test.name}.json")
            labels = labels_of(test.crops)
            subjects = [str(crop.subject) for crop in test.crops]
            eers[test.name] = dataclasses.asdict(
                bootstrap_eer(scores, labels, None if subjects[0] == "None" else subjects)
            )
        rows.append(row | {"eer": eers})
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


def _scores(run: Path, test: TestSet, labelled: Sequence[LabelledCrop], cache: Path) -> Scores:
    by_strangers = (run / FILE).exists() and test.crops[0].subject is not None
    checkpoints = [*map(outcome, members(run) if _is_committee(run) else [run])]
    key = [fingerprint(test.crops), *map(sha256, [run / FILE] if by_strangers else checkpoints)]
    if cache.exists():
        kept = json.loads(cache.read_text())
        if kept["key"] == key:
            return np.array(kept["scores"])
    if by_strangers:
        said = dict(zip((crop.name for crop in labelled), Strangers.read(run / FILE, labelled).scores, strict=True))
        scores = np.array([said[crop.name] for crop in test.crops])
    else:
        scores = predict(_network(run), test.crops)
    kept = {"key": key, "labels": labels_of(test.crops).tolist(), "scores": scores.tolist()}
    write_atomically(cache, json.dumps(kept))
    return scores


def _is_committee(run: Path) -> bool:
    return "shares" in read_recipe(run)


def _network(run: Path) -> Learner:
    if _is_committee(run):
        return load_committee(run)
    return load_student(outcome(run)) if "distillation_set" in read_recipe(run) else load_classifier(outcome(run))
