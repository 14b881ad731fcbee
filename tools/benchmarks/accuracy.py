"""How good each contestant is: its scores of crops that none of ours learnt from, and the EER of these."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from eyestate.execution import open_session
from eyestate.images import Pixels, decode
from eyestate.scorer import Scorer
from tools.benchmarks.contestants import WHOLE, Network, parts, read_scores
from training.commands.stages import judged_by_people
from training.data.datasets import FAR_SIDE, Crop, data_dir, fingerprint, load_mrl, shrunk, split_by_subject
from training.evaluation.eer import Interval, Labels, Scores, bootstrap_eer, equal_error_rate
from training.files import write_json
from training.runs import sha256

CHOICE: Final = "mrl_val"
MRL_TEST: Final = "mrl_test"
MRL_FAR: Final = "mrl_test_far"
HELD_OUT: Final = "held_out"
_BATCH: Final = 64
_ROUNDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Test:
    """Labelled crops: grey pixels, labels (0 closed, 1 open), subjects where they are known, and a fingerprint."""

    __test__ = False  # not a test of pytest's

    name: str
    what: str
    pixels: Sequence[Pixels]
    labels: Labels
    subjects: Sequence[str] | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A contestant's scores by test, of the part of a crop it is shown there, and its EERs by part and test."""

    shown: dict[str, str]
    boxes: dict[str, dict[str, float]]
    scores: dict[str, Scores]


def read_tests(every: int = 1) -> dict[str, Test]:
    """The tests for which the data are there, by name; ``every`` so many crops are taken.

    On ``CHOICE``, MRL's validation subjects, nothing is reported but what part of a crop each peer is shown.
    """
    found = []
    if (data_dir() / "mrl-eyes.zip").exists():
        split = split_by_subject(load_mrl(data_dir() / "mrl-eyes.zip").crops)
        test = split.test[::every]
        found += [
            make_test(CHOICE, "MRL validation subjects", split.val[::every]),
            make_test(MRL_TEST, "MRL test subjects", test),
            make_test(MRL_FAR, f"MRL test subjects, shrunk to {FAR_SIDE} px", [shrunk(crop) for crop in test]),
        ]
    unlabelled, answers = data_dir() / "eyes-dataset.zip", data_dir() / "human-labels.csv"
    if unlabelled.exists() and answers.exists():
        what = "held-out crops of the unlabelled set"
        found.append(make_test(HELD_OUT, what, judged_by_people(unlabelled, answers)[::every]))
    return {test.name: test for test in found}


def make_test(name: str, what: str, crops: Sequence[Crop]) -> Test:
    """Crops with labels, decoded."""
    subjects = [crop.subject for crop in crops if crop.subject is not None]
    return Test(
        name,
        what,
        [decode(crop.data) for crop in crops],
        np.array([crop.label for crop in crops]),
        subjects or None,
        fingerprint(crops),
    )


def judge_network(network: Network, tests: Mapping[str, Test], cache: Path) -> Judged:
    """Score all tests with each part of a crop that the network may be shown, and choose one.

    For MRL it is the part with the lowest EER on ``CHOICE``. For crops of another kind, which are framed otherwise and
    of which none are there to choose by, it is the part that the network was made for.
    """
    scores = {
        box: {name: network_scores(network, box, test, cache) for name, test in tests.items()} for box in network.boxes
    }
    boxes = {
        box: {name: equal_error_rate(found, tests[name].labels) for name, found in by_test.items()}
        for box, by_test in scores.items()
    }
    best = min(network.boxes, key=lambda box: boxes[box].get(CHOICE, 0))  # the first of equal ones
    shown = {name: network.boxes[0] if name == HELD_OUT else best for name in tests}
    return Judged(shown, boxes, {name: scores[box][name] for name, box in shown.items()})


def judge_scorer(scorer: Scorer, tests: Mapping[str, Test], cache: Path) -> Judged:
    """Score all tests as the service would."""
    shown = dict.fromkeys(tests, WHOLE)
    return Judged(shown, {}, {name: scorer_scores(scorer, test, cache) for name, test in tests.items()})


def network_scores(network: Network, box: str, test: Test, cache: Path) -> Scores:
    """P(open) of all crops (N,), by ONNX Runtime on the CPU in float32, kept for the same network, part and crops."""
    session, _ = open_session(network.onnx, "cpu")
    name = session.get_inputs()[0].name

    def compute() -> Scores:
        starts = tqdm(range(0, len(test.pixels), _BATCH), desc=f"{network.name}, {test.name}", unit="batch")
        batches = (network.inputs(test.pixels[start : start + _BATCH], box) for start in starts)
        return np.concatenate([read_scores(session.run(None, {name: batch})[0]) for batch in batches]).astype(float)

    return kept(cache, [sha256(network.onnx), box, test.fingerprint], compute)


def scorer_scores(scorer: Scorer, test: Test, cache: Path) -> Scores:
    """As ``network_scores``, by a scorer as the service uses it."""

    def compute() -> Scores:
        starts = tqdm(range(0, len(test.pixels), _BATCH), desc=f"{scorer.manifest.name}, {test.name}", unit="batch")
        batches = (parts(test.pixels[start : start + _BATCH]) for start in starts)
        return np.concatenate([scorer.score_parts(batch) for batch in batches]).astype(float)

    return kept(cache, [scorer.manifest.sha256, test.fingerprint], compute)


def kept(cache: Path, key: Sequence[str], compute: Callable[[], Scores]) -> Scores:
    """Scores that were computed before under the same key, else computed now and kept in ``cache``."""
    place = cache / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"
    if place.exists():
        return np.array(json.loads(place.read_text())["scores"])
    scores = compute()
    write_json(place, {"key": key, "scores": scores.tolist()})
    return scores


def eer(test: Test, scores: Scores) -> Interval:
    """EER with its 95 % interval by bootstrap, over subjects where they are known, else over crops."""
    return bootstrap_eer(scores, test.labels, test.subjects)


def paired_difference(test: Test, scores: Scores, reference: Scores) -> Interval:
    """EER less the reference's, with a 95 % interval by bootstrap of the same crops for both."""
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
