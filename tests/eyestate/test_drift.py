from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

import eyestate
from eyestate.arrays import Pixels
from eyestate.bundle import Feature, Reference, Thresholds
from eyestate.drift import EDGES, HALF_LIFE, LEAST, Drift, Values, psi, reference
from eyestate.images import decode
from eyestate.quality import measure, shrink

THRESHOLDS = Thresholds(closed=0.25, open=0.75, rule="made for a test")


def crops(n: int, seed: int, *, darker: float = 1) -> dict[str, Values]:
    """Figures of crops that could be of a service's usual kind."""
    random = np.random.default_rng(seed)
    return {
        "score": random.beta(0.3, 0.3, n),
        "width": random.choice([24.0, 32, 64], n),
        "brightness": random.normal(120, 40, n).clip(0, 255) * darker,
        "sharpness": random.lognormal(-1, 0.7, n),
    }


@pytest.fixture(scope="module")
def usual() -> Reference:
    return reference("made for a test", crops(3_000, seed=0), THRESHOLDS)  # type: ignore[arg-type]


def seen(usual: Reference, *parts: dict[str, Values]) -> Drift:
    drift = Drift(usual, THRESHOLDS)
    for part in parts:
        for feature in EDGES:
            drift.add(feature, part[feature])
    return drift


def test_psi_of_a_worked_example() -> None:
    expected = (0.6 - 0.5) * np.log(0.6 / 0.5) + (0.4 - 0.5) * np.log(0.4 / 0.5)
    assert psi([0.5, 0.5], [0.6, 0.4]) == pytest.approx(expected)


shares = st.lists(st.floats(0.001, 1), min_size=4, max_size=4).map(lambda parts: np.array(parts) / sum(parts))


@given(shares, shares)
def test_psi_is_a_distance(first: Values, second: Values) -> None:
    assert psi(first, first) == 0
    assert psi(first, second) >= 0
    assert psi(first, second) == pytest.approx(psi(second, first))


def test_psi_is_finite_where_a_bin_is_empty() -> None:
    assert 1 < psi([1, 0], [0, 1]) < 20


def test_reference_describes_the_crops(usual: Reference) -> None:
    figures = crops(3_000, seed=0)
    assert usual.crops == 3_000
    assert usual.uncertain == pytest.approx(((figures["score"] > 0.25) & (figures["score"] < 0.75)).mean())
    for feature, distribution in usual.features.items():
        assert sum(distribution.shares[:3]) == pytest.approx((figures[feature] <= distribution.edges[2]).mean())


def test_crops_of_the_same_kind_do_not_drift(usual: Reference) -> None:
    assert max(seen(usual, crops(1_000, seed=1)).indices().values()) < 0.1


def test_only_what_differs_drifts(usual: Reference) -> None:
    indices = seen(usual, crops(1_000, seed=1, darker=0.5)).indices()
    assert indices.pop("brightness") > 0.2
    assert max(indices.values()) < 0.1


def test_few_crops_say_nothing(usual: Reference) -> None:
    drift = seen(usual, crops(LEAST - 1, seed=1))
    assert drift.indices() == {}
    assert drift.uncertain() is None
    drift = seen(usual, crops(LEAST - 1, seed=1), crops(2, seed=2))
    assert set(drift.indices()) == set(EDGES)
    assert drift.uncertain() is not None


def test_just_enough_crops_say_something(usual: Reference) -> None:
    drift = seen(usual, crops(LEAST, seed=1))
    assert set(drift.indices()) == set(EDGES)
    assert drift.uncertain() is not None


def test_psi_takes_an_empty_bin_for_one_crop_in_a_thousand() -> None:
    assert psi([0.5, 0.5, 0], [0.5, 0.4, 0.1]) == pytest.approx(-0.1 * np.log(0.4 / 0.5) + 0.099 * np.log(0.1 / 0.001))


def test_share_of_uncertain_verdicts(usual: Reference) -> None:
    drift = Drift(usual, THRESHOLDS)
    drift.add("score", np.array([0.25, 0.26, 0.74, 0.75] * LEAST))
    assert drift.uncertain() == pytest.approx(0.5)


def test_the_past_fades(usual: Reference) -> None:
    """A spell of dark crops is seen, and forgotten once enough others came, whether in small parts or in large ones."""
    dark, light = crops(2_000, seed=1, darker=0.3), crops(HALF_LIFE // 10, seed=2)
    assert seen(usual, light, dark).indices()["brightness"] > 0.2
    assert seen(usual, dark, *[light] * 100).indices()["brightness"] < 0.1


def test_a_window_remembers_half_after_a_half_life(usual: Reference) -> None:
    drift = Drift(usual, THRESHOLDS)
    drift.add("score", np.full(LEAST, 0.5))
    drift.add("score", np.full(HALF_LIFE, 0.9))
    assert drift.uncertain() == pytest.approx((LEAST / 2) / (LEAST / 2 + HALF_LIFE))


@pytest.mark.shared
def test_real_crops() -> None:
    """Held-out crops are like the shipped model's reference; in other light or out of focus they are not."""
    pytest.importorskip("sklearn", reason="the data sets are read with the training environment")
    from training.data.datasets import data_dir, load_crops
    from training.data.split import hold_out

    scorer = eyestate.load()
    manifest = scorer.manifest
    assert manifest.reference is not None

    def indices(crops: list[Pixels]) -> dict[Feature, float]:
        drift = Drift(manifest.reference, manifest.thresholds)
        measures = measure([shrink(crop) for crop in crops])
        drift.add("score", scorer.score(crops).astype(float))
        drift.add("width", np.array([crop.shape[1] for crop in crops], float))
        drift.add("brightness", measures.brightness.astype(float))
        drift.add("sharpness", measures.sharpness.astype(float))
        return drift.indices()

    held_out = [decode(crop.data) for crop in hold_out(load_crops(data_dir() / "eyes-dataset.zip").crops)[1][::2]]
    assert max(indices(held_out).values()) < 0.1
    blur = ImageFilter.GaussianBlur(1.5)
    blurred = indices([np.asarray(Image.fromarray(crop).filter(blur)) for crop in held_out])
    assert min(blurred["score"], blurred["sharpness"]) > 0.2 > blurred["brightness"]
    darker = indices([crop // 2 for crop in held_out])
    assert darker.pop("brightness") > 0.2 > max(darker.values())
