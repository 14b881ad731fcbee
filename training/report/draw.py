"""The whole report: its sections, and its numbers by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from training.data.datasets import Crop, LabelledCrop
from training.data.labels import Answer
from training.evaluation.compare import ANSWERS
from training.report import judging, labelling
from training.report.content import Report
from training.report.outputs import NotRunError, Runs

T = TypeVar("T")

COPIED: Final = {  # what stages measured, by its name in results.json
    "comparison": "compare/comparison.json",
    "clusterings": "cluster/clusterings.json",
    "consensus": "consensus/metrics.json",
    "best_1000": "best_1000/own_test.json",
    "final_baseline": "final_baseline/own_test.json",
    "pseudo_labels": "pseudo_label/counts.json",
    "committee": "committee/counts.json",
    "final_best": "final_best/counts.json",
}


def draw(
    runs: Runs, pool: Sequence[Crop], held_out: Sequence[LabelledCrop], people: Mapping[str, Answer]
) -> tuple[Report, dict[str, Any]]:
    """The report, and its numbers by name, null where a stage has not been run.

    Args:
        runs: the folder of the runs.
        pool: the unlabelled crops that were learnt from.
        held_out: the others, as their collection labels them; empty where it does not.
        people: people's answers, by file.
    """
    asked = {crop.name: people[crop.name] for crop in pool if crop.name in people}
    qualities, missing = labelling.stage_qualities(runs, pool, asked)
    suspicions = if_run(lambda: labelling.suspicions(runs, asked))
    calibrations = judging.calibrations(runs)
    made = Report(
        "From unlabelled eye crops to final_best",
        [
            judging.summary(runs),
            labelling.clustering(runs),
            labelling.consensus(runs, pool),
            labelling.pseudo_labels(runs),
            labelling.people(runs),
            labelling.quality(qualities, missing, suspicions),
            judging.baseline(runs),
            judging.attempts(runs),
            judging.shown(runs, held_out),
            judging.calibration(runs, calibrations),
            judging.training(runs),
            judging.notes(held_out, people),
        ],
    )
    results = {
        **{name: if_run(partial(runs.json, path, "")) for name, path in COPIED.items()},
        "crops_people_were_asked_about": {name: len(labelling.answered(runs, name)) for name in ANSWERS},
        "label_quality": [dataclasses.asdict(item) for item in qualities],
        "label_errors": None if suspicions is None else [dataclasses.asdict(item) for item in suspicions],
        "calibration": {test: dataclasses.asdict(item) for test, item in calibrations.items()},
    }
    return made, results


def if_run(make: Callable[[], T]) -> T | None:
    """What is made, or None where its stage has not been run."""
    try:
        return make()
    except NotRunError:
        return None
