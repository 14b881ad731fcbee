"""Accuracy of each candidate on crops and people that it has never seen.

Crops that no network of this project learnt from are scored by all candidates. From the other collections the networks
that ship have learnt, so only public models are scored on them; for this project's models the manifests say how
networks of the same training did that had never seen the person.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from eyestate.arrays import Pixels
from eyestate.bundle import Metric
from eyestate.execution import open_session
from eyestate.images import decode
from eyestate.scorer import Scorer
from tools.benchmarks.candidates import WHOLE, Network, group_by_size, read_scores
from training.commands.options import read_judging
from training.data.datasets import (
    FAR_SIDE,
    LabelledCrop,
    data_dir,
    fingerprint,
    labels_of,
    load_mrl,
    load_people,
    shrunk,
)
from training.data.split import split_by_subject
from training.evaluation import judging
from training.evaluation.eer import Labels, Scores, equal_error_rate
from training.evaluation.intervals import Interval, bootstrap_eer
from training.files import write_json
from training.runs import sha256

HELD_OUT: Final = "held_out"
EASY: Final = "held_out_easy"
SELECTION: Final = "mrl_val"
MRL: Final = "mrl"
MRL_FAR: Final = "mrl_far"
COLOUR: Final = "colour"
UNSEEN: Final = (HELD_OUT, EASY)  # no network of this project learnt from these
# What the manifests of this project's models call the other sets, scored by networks that never saw the people.
STRANGERS: Final = {
    MRL: judging.STRANGERS,
    MRL_FAR: judging.STRANGERS_FAR,
    COLOUR: f"{COLOUR}, people never seen",
}
_OVER_CROPS: Final = "95 % bootstrap over crops"  # an interval of the manifests, too narrow for frames of few people
_BATCH: Final = 64
_ROUNDS: Final = 1000


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Labelled crops.

    Attributes:
        name: key in reports.
        what: description for people.
        pixels: greyscale crops, uint8 (height, width) each.
        labels: 0 closed, 1 open.
        subjects: of each crop, None if unknown.
        fingerprint: identifies the crops in the cache.
    """

    __test__ = False  # not a test of pytest's

    name: str
    what: str
    pixels: Sequence[Pixels]
    labels: Labels
    subjects: Sequence[str] | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of a candidate.

    Attributes:
        chosen_region: region of the crop that it is given, by evaluation set.
        region_eers: EER by region and evaluation set, without MRL as a whole.
        scores: P(open) with the chosen region, by evaluation set.
    """

    chosen_region: dict[str, str]
    region_eers: dict[str, dict[str, float]]
    scores: dict[str, Scores]


def load_evaluation_sets(every: int = 1) -> dict[str, EvaluationSet]:
    """The evaluation sets whose data are available, by name, reduced to every ``every``-th crop.

    ``SELECTION``, a part of MRL's subjects, serves only to choose the region of the crop that each peer is given.
    """
    found = []
    unlabelled, colour = data_dir() / "eyes-dataset.zip", data_dir() / "colour-eyes.zip"
    if unlabelled.exists():
        held_out = read_judging(unlabelled, data_dir() / "held-out-labels.csv", data_dir() / "human-labels.csv")
        found += [
            make_evaluation_set(HELD_OUT, judging.HELD_OUT, held_out.everything[::every]),
            make_evaluation_set(EASY, judging.EASY, held_out.easy[::every]),
        ]
    if (data_dir() / "mrl-eyes.zip").exists():
        everybody = load_mrl(data_dir() / "mrl-eyes.zip").crops
        crops = everybody[::every]
        found += [
            make_evaluation_set(SELECTION, "MRL validation subjects", split_by_subject(everybody).val[::every]),
            make_evaluation_set(MRL, "MRL", crops),
            make_evaluation_set(MRL_FAR, f"MRL shrunk to {FAR_SIDE} px", [shrunk(crop) for crop in crops]),
        ]
    if colour.exists():
        found.append(make_evaluation_set(COLOUR, "colour photos", load_people(colour).crops[::every]))
    return {test.name: test for test in found if len(test.labels)}


def make_evaluation_set(name: str, what: str, crops: Sequence[LabelledCrop]) -> EvaluationSet:
    """Decode labelled crops."""
    subjects = [crop.subject for crop in crops if crop.subject is not None]
    return EvaluationSet(
        name,
        what,
        [decode(crop.data) for crop in crops],
        labels_of(crops),
        subjects or None,
        fingerprint(crops),
    )


def evaluate_network(network: Network, sets: Mapping[str, EvaluationSet], cache: Path) -> Evaluation:
    """Choose a region of the crop per set, and score all sets.

    For MRL it is the region with the lowest EER on ``SELECTION``. Other crops are framed differently and have no
    validation set, so there it is the region that the network was designed for.
    """
    compared = [test for test in sets.values() if test.name not in (MRL, MRL_FAR)]
    regions = {
        region: {
            test.name: equal_error_rate(network_scores(network, region, test, cache), test.labels) for test in compared
        }
        for region in network.regions
    }
    best = min(network.regions, key=lambda region: regions[region].get(SELECTION, 0))  # the first one if several tie
    shown = {name: best if name in (SELECTION, MRL, MRL_FAR) else network.regions[0] for name in sets}
    return Evaluation(
        shown, regions, {name: network_scores(network, shown[name], test, cache) for name, test in sets.items()}
    )


def evaluate_scorer(scorer: Scorer, sets: Mapping[str, EvaluationSet], cache: Path) -> Evaluation:
    """Score all sets as the service would."""
    shown = dict.fromkeys(sets, WHOLE)
    return Evaluation(shown, {}, {name: scorer_scores(scorer, test, cache) for name, test in sets.items()})


def network_scores(network: Network, region: str, test: EvaluationSet, cache: Path) -> Scores:
    """P(open) of all crops (N,), by ONNX Runtime on the CPU in float32, cached by network, region and crops."""
    session, _ = open_session(network.onnx, "cpu")
    name = session.get_inputs()[0].name

    def compute() -> Scores:
        starts = tqdm(range(0, len(test.pixels), _BATCH), desc=f"{network.name}, {test.name}", unit="batch")
        batches = (network.inputs(test.pixels[start : start + _BATCH], region) for start in starts)
        return np.concatenate([read_scores(session.run(None, {name: batch})[0]) for batch in batches]).astype(float)

    return cached_scores(cache, [sha256(network.onnx), region, test.fingerprint], compute)


def scorer_scores(scorer: Scorer, test: EvaluationSet, cache: Path) -> Scores:
    """As ``network_scores``, with a scorer as the service uses it."""

    def compute() -> Scores:
        starts = tqdm(range(0, len(test.pixels), _BATCH), desc=f"{scorer.manifest.name}, {test.name}", unit="batch")
        batches = (group_by_size(test.pixels[start : start + _BATCH]) for start in starts)
        return np.concatenate([scorer.score_parts(batch) for batch in batches]).astype(float)

    return cached_scores(cache, [scorer.manifest.sha256, test.fingerprint], compute)


def cached_scores(cache: Path, key: Sequence[str], compute: Callable[[], Scores]) -> Scores:
    """Scores from the cache, or computed and stored under the key."""
    path = cache / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"
    if path.exists():
        return np.array(json.loads(path.read_text())["scores"])
    scores = compute()
    write_json(path, {"key": key, "scores": scores.tolist()})
    return scores


def stranger_metrics(kind: str, metrics: Iterable[Metric], sets: Iterable[str]) -> dict[str, Metric]:
    """Metrics on people whom the scoring network had never seen, by evaluation set.

    Args:
        kind: of the metrics, such as "EER".
        metrics: of a manifest.
        sets: names of the evaluation sets to look for.
    """
    names = {f"{kind}, {STRANGERS[name]}": name for name in sets if name in STRANGERS}
    return {names[m.name]: m for m in metrics if m.name in names and m.interval != _OVER_CROPS}


def eer(test: EvaluationSet, scores: Scores) -> Interval:
    """EER with its 95 % bootstrap interval, over subjects if they are known, otherwise over crops."""
    return bootstrap_eer(scores, test.labels, test.subjects)


def paired_difference(test: EvaluationSet, scores: Scores, reference: Scores) -> Interval:
    """EER minus the reference's, with a 95 % interval from a paired bootstrap."""
    groups = np.asarray(test.subjects if test.subjects is not None else range(len(scores)))
    _, member = np.unique(groups, return_inverse=True)
    order = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    random = np.random.default_rng(0)
    differences: list[float] = []
    while len(differences) < _ROUNDS:
        chosen = np.concatenate([order[i] for i in random.integers(0, len(order), len(order))])
        labels = test.labels[chosen]
        if 0 < labels.sum() < labels.size:
            differences.append(equal_error_rate(scores[chosen], labels) - equal_error_rate(reference[chosen], labels))
    value = equal_error_rate(scores, test.labels) - equal_error_rate(reference, test.labels)
    return Interval(value, *map(float, np.quantile(differences, [0.025, 0.975])))
