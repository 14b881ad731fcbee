from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eyestate.scorer import load
from tools.benchmarks.accuracy import (
    HELD_OUT,
    MRL_TEST,
    SELECTION,
    EvaluationSet,
    cached_scores,
    eer,
    evaluate_network,
    evaluate_scorer,
    load_evaluation_sets,
    paired_difference,
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
        tests = {SELECTION: crops(SELECTION, bright_middle=True), MRL_TEST: crops(MRL_TEST, bright_middle=False)}
        evaluated = evaluate_network(peer, tests, tmp_path)
        best = evaluated.chosen_region[MRL_TEST]
        assert best != WHOLE
        assert evaluated.region_eers[WHOLE][SELECTION] > evaluated.region_eers[best][SELECTION] == 0
        assert evaluated.region_eers[WHOLE][MRL_TEST] == 0
        assert list(evaluated.region_eers) == list(peer.regions)

    def test_held_out_crops_use_the_native_region(self, peer: PeerNetwork, tmp_path: Path) -> None:
        tests = {name: crops(name, bright_middle=True) for name in (SELECTION, HELD_OUT)}
        evaluated = evaluate_network(peer, tests, tmp_path)
        assert evaluated.chosen_region[HELD_OUT] == peer.native_region != evaluated.chosen_region[SELECTION]
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


def test_evaluation_sets_are_disjoint_from_training_data(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESTATE_DATA", str(data))
    tests = load_evaluation_sets()
    assert list(tests) == ["mrl_val", "mrl_test", "mrl_test_far", "held_out"]
    subjects = [set(tests[name].subjects or ()) for name in ("mrl_val", "mrl_test")]
    assert subjects[0].isdisjoint(subjects[1])
    assert 0 < len(subjects[0] | subjects[1]) < SPLIT_FOLDS
    assert {crop.shape for crop in tests["mrl_test_far"].pixels} == {(24, 24)}
    assert len(load_evaluation_sets(every=4)["mrl_test"].pixels) == -(-len(tests["mrl_test"].pixels) // 4)


def test_without_data_there_are_no_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESTATE_DATA", str(tmp_path))
    assert load_evaluation_sets() == {}
