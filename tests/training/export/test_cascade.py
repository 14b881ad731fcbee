from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import eyestate
from eyestate.bundle import CascadeManifest, load_bundle
from eyestate.scorer import Network
from tests.bundles import write_bundle
from training.data.split import Split
from training.evaluation.eer import Labels, Scores, equal_error_rate
from training.export.cascade import MAX_DIFFERENCE, Pair, cached_scores, choose_band, make_cascade


@pytest.fixture
def pair() -> tuple[Pair, Labels]:
    """A small network that sees what the large one sees, less clearly."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 4_000)
    seen = 3 * (2 * labels - 1) + random.normal(0, 1.5, labels.size)

    def scores(noise: float) -> Scores:
        return 1 / (1 + np.exp(-(seen + random.normal(0, noise, labels.size))))

    return Pair(scores(1), scores(0.1)), labels


def test_band_is_narrow_and_good_enough(pair: tuple[Pair, Labels]) -> None:
    both, labels = pair
    band = choose_band(both)
    said = (both.large >= 0.5).astype(int)
    assert equal_error_rate(both.together(band), said) <= MAX_DIFFERENCE < equal_error_rate(both.small, said)
    assert 0 < both.deferred(band).mean() < 0.6
    assert band.low == pytest.approx(1 - band.high)
    assert equal_error_rate(both.together(band), labels) < equal_error_rate(both.small, labels)


def test_equal_networks_need_no_second_opinion() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 500)
    scores = np.clip(0.2 + 0.6 * labels + random.normal(0, 0.1, 500), 0.01, 0.99)
    assert Pair(scores, scores).deferred(choose_band(Pair(scores, scores))).mean() < 0.02


def test_a_large_network_that_knows_one_answer_is_always_asked() -> None:
    scores = np.linspace(0.1, 0.9, 50)
    both = Pair(scores, np.full(50, 0.9))
    assert both.deferred(choose_band(both)).all()


def test_scores_are_computed_once(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(load_bundle(write_bundle(tmp_path / "models")), "cpu")
    first = cached_scores(network, split.test, tmp_path / "cache")
    np.testing.assert_allclose(first, network.score([crop.data for crop in split.test]))
    monkeypatch.delattr(Network, "run")
    np.testing.assert_array_equal(cached_scores(network, split.test, tmp_path / "cache"), first)


def test_makes_a_bundle_that_scores(split: Split, tmp_path: Path) -> None:
    models = tmp_path / "models"
    small, large = (load_bundle(write_bundle(models, name)) for name in ("small", "large"))
    held_out = [dataclasses.replace(crop, subject=None) for crop in split.test]
    path = make_cascade(
        small,
        large,
        split,
        models,
        name="both",
        version="0.0.1",
        results=tmp_path / "results",
        max_wrong=0.01,
        held_out=held_out,
        reference_crops=split.train,
        cache=tmp_path / "cache",
    )
    scorer = eyestate.load(path)
    assert isinstance(scorer.manifest, CascadeManifest)
    assert (scorer.manifest.small.name, scorer.manifest.large.name) == ("small", "large")
    names = [metric.name for metric in scorer.manifest.metrics]
    assert "EER, MRL test subjects" in names
    assert "Share deferred, held-out crops of the unlabelled set" in names
    assert scorer.score([split.test[0].data]).shape == (1,)
    evaluation = json.loads((tmp_path / "results" / "evaluation.json").read_text())
    assert evaluation["sha256"] == scorer.manifest.sha256
    assert {item["attribute"] for item in evaluation["slices"]} > {"glasses", "brightness", "subject"}
