from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import eyestate
from eyestate.bundle import CascadeManifest, load_bundle
from eyestate.scorer import Network
from tests.bundles import write_bundle
from training.data.datasets import Crop, LabelledCrop
from training.data.folds import deal
from training.data.split import Split
from training.evaluation.eer import Labels, Scores, equal_error_rate
from training.evaluation.judging import EASY, HELD_OUT, STRANGERS, HeldOut
from training.export.cascade import MAX_DIFFERENCE, Pair, cached_scores, choose_band, make_cascade
from training.models.strangers import Strangers


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


def test_makes_a_bundle_that_scores(everybody: list[LabelledCrop], pool: list[Crop], tmp_path: Path) -> None:
    models = tmp_path / "models"
    small, large = (load_bundle(write_bundle(models, name)) for name in ("small", "large"))
    random, folds = np.random.default_rng(0), deal(everybody)

    def said() -> Strangers:
        return Strangers(random.random(len(everybody)), random.random(len(everybody)), folds)

    of_small, of_large = said(), said()
    held_out = [crop.labelled(place % 2) for place, crop in enumerate(pool)]
    path = make_cascade(
        small,
        large,
        everybody,
        (of_small, of_large),
        models,
        name="both",
        version="0.0.1",
        results=tmp_path / "results",
        max_wrong=0.01,
        held_out=HeldOut(held_out, held_out[:6]),
        reference_crops=pool,
        cache=tmp_path / "cache",
        output=tmp_path / "both.npz",
    )
    scorer = eyestate.load(path)
    manifest = scorer.manifest
    assert isinstance(manifest, CascadeManifest)
    assert (manifest.small.name, manifest.large.name) == ("small", "large")
    assert scorer.score([pool[0].data]).shape == (1,)
    found = {metric.name: metric for metric in manifest.metrics}
    for kind, crops in ((HELD_OUT, held_out), (EASY, held_out[:6]), (STRANGERS, None)):
        for figure in ("EER", "Uncertain", "Deferred"):
            assert crops is None or found[f"{figure}, {kind}"].n == len(crops)
    assert manifest.reference is not None
    assert manifest.reference.crops == len(pool)

    near, far = Pair(of_small.scores, of_large.scores), Pair(of_small.far, of_large.far)
    together = Strangers.read(tmp_path / "both.npz", everybody)
    np.testing.assert_allclose(together.scores, near.together(manifest.deferral_band))
    np.testing.assert_allclose(together.far, far.together(manifest.deferral_band))
    colour = np.array([crop.collection == "colour" for crop in everybody])
    deferred = near.deferred(manifest.deferral_band)[colour].mean()
    assert found["Deferred, colour, people never seen"].value == pytest.approx(deferred)

    evaluation = json.loads((tmp_path / "results" / "evaluation.json").read_text())
    assert evaluation["sha256"] == manifest.sha256
    assert {item["attribute"] for item in evaluation["slices"]} > {"all", "glasses", "brightness", "subject"}
    assert evaluation["by_person"] == sorted(evaluation["by_person"])


def test_held_out_crops_that_nobody_labelled_do_not_judge(
    everybody: list[LabelledCrop], pool: list[Crop], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    small, large = (load_bundle(write_bundle(models, name)) for name in ("small", "large"))
    scores = np.linspace(0, 1, len(everybody))
    said = Strangers(scores, scores, deal(everybody))
    path = make_cascade(
        small,
        large,
        everybody,
        (said, said),
        models,
        name="both",
        version="0.0.1",
        results=tmp_path / "results",
        max_wrong=0.01,
        held_out=HeldOut([], []),
        reference_crops=pool,
        cache=tmp_path / "cache",
        output=tmp_path / "both.npz",
    )
    names = [metric.name for metric in eyestate.load(path).manifest.metrics]
    assert not [name for name in names if HELD_OUT in name or EASY in name]
    assert f"EER, {STRANGERS}" in names
