from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eyestate.scorer import load
from tests.tools.benchmarks.conftest import PEOPLE, metrics
from tools.benchmarks.accuracy import (
    COLOUR,
    EASY,
    HELD_OUT,
    MRL,
    MRL_FAR,
    SELECTION,
    EvaluationSet,
    cached_scores,
    eer,
    evaluate_network,
    evaluate_scorer,
    load_evaluation_sets,
    paired_difference,
    stranger_metrics,
)
from tools.benchmarks.candidates import WHOLE, PeerNetwork
from training.data.split import SPLIT_FOLDS
from training.evaluation.eer import Scores, equal_error_rate


def crops(name: str, *, bright_middle: bool) -> EvaluationSet:
    """Open eyes are bright: everywhere, or only in the centre while closed ones have a bright rim."""
    random = np.random.default_rng(0)
    labels = np.arange(20) % 2
    pixels = []
    for label in labels:
        crop = random.integers(0, 50, (40, 40)).astype(np.uint8)
        if bright_middle:
            crop[12:28, 8:32] += np.uint8(150 * label)
            crop[:8] += np.uint8(200 * (1 - label))
        else:
            crop += np.uint8(150 * label)
        pixels.append(crop)
    return EvaluationSet(name, name, pixels, labels, None, f"{name}{bright_middle}")


class TestEvaluateNetwork:
    @pytest.fixture
    def peer(self, peers: Path) -> PeerNetwork:
        return PeerNetwork("peer", peers / "ocec_p.onnx", "MIT", width=40, height=24)

    def test_region_is_chosen_on_the_selection_set(self, peer: PeerNetwork, tmp_path: Path) -> None:
        tests = {SELECTION: crops(SELECTION, bright_middle=True), MRL: crops(MRL, bright_middle=False)}
        evaluated = evaluate_network(peer, tests, tmp_path)
        best = evaluated.chosen_region[MRL]
        assert best != WHOLE
        assert evaluated.region_eers[WHOLE][SELECTION] > evaluated.region_eers[best][SELECTION] == 0
        assert list(evaluated.region_eers) == list(peer.regions)
        assert all(MRL not in eers for eers in evaluated.region_eers.values())

    @pytest.mark.parametrize("name", [HELD_OUT, EASY, COLOUR])
    def test_other_crops_use_the_native_region(self, peer: PeerNetwork, tmp_path: Path, name: str) -> None:
        tests = {test: crops(test, bright_middle=True) for test in (SELECTION, name)}
        evaluated = evaluate_network(peer, tests, tmp_path)
        assert evaluated.chosen_region[name] == peer.native_region != evaluated.chosen_region[SELECTION]
        assert evaluate_network(peer, {}, tmp_path).scores == {}


def test_scores_are_cached_by_key(tmp_path: Path) -> None:
    counted = []

    def compute() -> Scores:
        counted.append(1)
        return np.array([0.25, 0.1])

    for key in (["network", "crops"], ["network", "crops"], ["another", "crops"]):
        assert cached_scores(tmp_path, key, compute).tolist() == [0.25, 0.1]
    assert len(counted) == 2


def test_scorer_is_evaluated_as_used(bundles: Path, tmp_path: Path) -> None:
    test = crops(HELD_OUT, bright_middle=False)
    scorer = load(bundles / "final_best", "cpu")
    evaluated = evaluate_scorer(scorer, {HELD_OUT: test}, tmp_path)
    assert evaluated.scores[HELD_OUT] == pytest.approx(scorer.score(test.pixels).astype(float))
    assert eer(test, evaluated.scores[HELD_OUT]).value == 0


class TestPairedDifference:
    def test_is_zero_for_equal_scores(self) -> None:
        random = np.random.default_rng(0)
        test = EvaluationSet("t", "t", [], np.arange(60) % 2, [f"s{i % 6}" for i in range(60)], "")
        scores = random.random(60)
        found = paired_difference(test, scores, scores)
        assert (found.value, found.low, found.high) == (0, 0, 0)

    def test_is_narrower_than_each_eers_interval(self) -> None:
        """The EERs of models that err on the same crops differ by less than the interval of either."""
        random = np.random.default_rng(0)
        labels = np.arange(400) % 2
        test = EvaluationSet("t", "t", [], labels, None, "")
        scores = labels + random.normal(0, 0.6, 400)
        other = scores + random.normal(0, 0.05, 400)
        found, alone = paired_difference(test, other, scores), eer(test, other)
        assert found.value == equal_error_rate(other, labels) - equal_error_rate(scores, labels)
        assert found.low <= found.value <= found.high
        assert found.high - found.low < (alone.high - alone.low) / 2


class TestStrangerMetrics:
    def test_are_those_over_subjects(self) -> None:
        found = stranger_metrics("EER", metrics(), [HELD_OUT, SELECTION, MRL, COLOUR])
        assert list(found) == [MRL, COLOUR]
        assert {metric.interval for metric in found.values()} == {"95 % bootstrap over subjects"}
        assert {metric.low for metric in found.values()} == {0.04}

    def test_are_of_one_kind(self) -> None:
        (found,) = stranger_metrics("Deferred", metrics(), [MRL_FAR]).values()
        assert found.name == "Deferred, MRL, people never seen, at 24 px"

    def test_a_manifest_may_lack_them(self) -> None:
        assert stranger_metrics("EER", metrics()[-1:], [MRL]) == {}


def test_evaluation_sets(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESTATE_DATA", str(data))
    tests = load_evaluation_sets()
    assert list(tests) == [HELD_OUT, EASY, SELECTION, MRL, MRL_FAR, COLOUR]
    subjects = {name: len(set(test.subjects or ())) for name, test in tests.items()}
    assert subjects == {HELD_OUT: 0, EASY: 0, SELECTION: 1, MRL: SPLIT_FOLDS, MRL_FAR: SPLIT_FOLDS, COLOUR: PEOPLE}
    assert 0 < len(tests[EASY].pixels) < len(tests[HELD_OUT].pixels)
    assert {crop.shape for crop in tests[MRL_FAR].pixels} == {(24, 24)}
    assert len(load_evaluation_sets(every=4)[MRL].pixels) == -(-len(tests[MRL].pixels) // 4)


def test_without_data_there_are_no_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESTATE_DATA", str(tmp_path))
    assert load_evaluation_sets() == {}
