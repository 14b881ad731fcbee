"""Clusterings of points with a known shape, and of generated eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.training.conftest import jpeg
from training.data.datasets import CLOSED, OPEN, Crop
from training.data.synthetic import labelled
from training.labelling.cluster import (
    ALGORITHMS,
    AS_GIVEN,
    DEFAULTS,
    NOISE,
    UNDECIDED,
    Algorithm,
    Clustering,
    Clusters,
    Space,
    admissible,
    appearance,
    by_default,
    explained,
    maps,
    mark_good,
    name_sides,
    row,
    sides,
    tune,
)
from training.labelling.cluster_plots import plot_study
from training.labelling.features import Values
from training.studies import open_studies


def blobs(*sizes: int, apart: float = 10.0, dimensions: int = 4) -> Values:
    """Round heaps of so many points, ``apart`` standard deviations from one another."""
    rng = np.random.default_rng(0)
    heaps = [rng.normal(apart * number, 1, (size, dimensions)) for number, size in enumerate(sizes)]
    return np.concatenate(heaps).astype(np.float32)


@pytest.fixture(scope="module")
def space() -> Space:
    return Space("blobs", blobs(30, 20), seed=0)


def clustering(clusters: list[int], silhouette: float | None = 0.1) -> Clustering:
    return Clustering("blobs", "kmeans", True, {}, np.array(clusters), silhouette)


def partition(clusters: Clusters) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(clusters == cluster)) for cluster in np.unique(clusters)}


def search(space: Space, algorithm: Algorithm, path: Path, trials: int) -> tuple[Clustering, list[Any]]:
    with open_studies(path) as storage:
        study = optuna.create_study(storage=storage, study_name="s", direction="maximize", load_if_exists=True)
        best = tune(space, algorithm, study, trials)
        return best, [(trial.params, trial.value) for trial in study.trials if trial.value is not None]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_finds_two_heaps(algorithm: Algorithm, space: Space) -> None:
    found = by_default(space, algorithm)
    inside = found.clusters != NOISE
    assert inside.mean() > 0.8
    assert partition(found.clusters[inside]) == partition(np.repeat([0, 1], [30, 20])[inside])
    assert found.silhouette is not None
    assert found.silhouette > 0.7
    assert admissible(found)


def test_dbscans_radius_is_where_the_distances_bend() -> None:
    heap, strays = blobs(60), 100 * np.eye(4, dtype=np.float32)
    found = by_default(Space("blobs", np.concatenate([heap, strays]), seed=0), "dbscan")
    assert (found.clusters[-4:] == NOISE).all()
    assert found.noise < 0.2
    assert found.params["eps"] < 5


def test_silhouette_leaves_noise_out(space: Space) -> None:
    clusters = np.repeat([0, 1], [30, 20])
    whole = space.silhouette(clusters)
    assert whole is not None
    mixed = clusters.copy()
    mixed[[0, 40]] = 1, 0
    worse = space.silhouette(mixed)
    mixed[[0, 40]] = NOISE
    without = space.silhouette(mixed)
    assert worse is not None
    assert without is not None
    assert worse < whole
    assert without == pytest.approx(whole, abs=0.02)


@pytest.mark.parametrize("clusters", [[0] * 50, [NOISE] * 50, list(range(50))])
def test_no_silhouette_without_two_clusters(clusters: list[int], space: Space) -> None:
    assert space.silhouette(np.array(clusters)) is None


def test_silhouette_is_of_the_features_as_given() -> None:
    """A third dimension of noise counts, though the clustering looks at the first component alone."""
    values = np.concatenate([blobs(20, 20, dimensions=1), np.random.default_rng(1).normal(0, 4, (40, 30))], axis=1)
    space = Space("noisy", values.astype(np.float32), seed=0)
    found = space.cluster("kmeans", AS_GIVEN | DEFAULTS["kmeans"] | {"components": 1}, tuned=True)
    flat = Space("flat", space.prepared("none", 1).astype(np.float32), seed=0)
    assert found.silhouette is not None
    assert found.silhouette < (flat.silhouette(found.clusters) or 0) - 0.2


@pytest.mark.parametrize(
    ("clusters", "fine"),
    [
        ([0] * 9 + [1], True),
        ([0] * 19 + [1], False),
        ([0] * 10, False),
        ([NOISE] * 10, False),
        ([0, 0, 1, 1, 1] + [NOISE] * 5, True),
        ([0, 0, 1, 1] + [NOISE] * 6, False),
    ],
)
def test_trivial_partitions_are_not_admissible(clusters: list[int], fine: bool) -> None:
    assert admissible(clustering(clusters)) is fine


def test_tuning_prefers_a_partition_to_odd_crops_apart(tmp_path: Path) -> None:
    """Two strays against all others have the higher silhouette, and are no partition."""
    space = Space("strays", np.concatenate([blobs(30, 30, apart=3), np.full((2, 4), 300, np.float32)]), seed=0)
    best, trials = search(space, "agglomerative", tmp_path / "optuna.db", 12)
    assert admissible(best)
    assert any(value < -1 for _, value in trials)
    assert min(best.sizes) > 6


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_tuning_is_repeatable_and_goes_on_after_a_kill(algorithm: Algorithm, space: Space, tmp_path: Path) -> None:
    whole, at_once = search(space, algorithm, tmp_path / "whole.db", 4)
    search(space, algorithm, tmp_path / "parts.db", 2)
    parts, piecewise = search(space, algorithm, tmp_path / "parts.db", 4)
    assert at_once == piecewise
    np.testing.assert_array_equal(whole.clusters, parts.clusters)
    assert whole.silhouette == pytest.approx(max(value for _, value in at_once), abs=1e-6)


def test_a_longer_search_does_not_change_a_shorter_one(space: Space, tmp_path: Path) -> None:
    first, _ = search(space, "kmeans", tmp_path / "optuna.db", 2)
    search(space, "kmeans", tmp_path / "optuna.db", 6)
    again, trials = search(space, "kmeans", tmp_path / "optuna.db", 2)
    assert len(trials) == 6
    assert again.params == first.params


def test_a_study_is_drawn(space: Space, tmp_path: Path) -> None:
    with open_studies(tmp_path / "optuna.db") as storage:
        study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
        tune(space, "dbscan", study, 3)
        plot_study(study, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} >= {"s-history.png", "s-slice.png"}


@pytest.mark.parametrize("favour", [0.0, 0.7], ids=["neither", "open"])
def test_sides_go_by_the_mean_score_whichever_side_the_network_favours(favour: float) -> None:
    clusters = np.array([0, 0, 1, 1, 2, 2, NOISE])
    scores = favour + (1 - favour) * np.array([0.9, 0.8, 0.1, 0.2, 0.7, 0.1, 1.0])
    names = name_sides(clusters, scores)
    assert names == {0: OPEN, 1: CLOSED, 2: CLOSED}
    np.testing.assert_array_equal(sides(clusters, names), [1, 1, 0, 0, 0, 0, UNDECIDED])


@given(
    arrays(np.int64, 40, elements=st.integers(-1, 3)),
    arrays(np.float64, 40, elements=st.floats(0, 1)),
    st.permutations(range(4)),
)
def test_explained_is_a_share_whatever_the_numbers(clusters: Clusters, values: Any, numbers: list[int]) -> None:
    share = explained(clusters, values)
    assert 0 <= share <= 1 + 1e-9
    renamed = np.where(clusters == NOISE, NOISE, np.array(numbers)[clusters])
    assert explained(renamed, values) == pytest.approx(share)


def test_looks_see_light_and_not_the_lids() -> None:
    dark = np.full((24, 24), 40, np.uint8)
    lit = dark.copy()
    lit[:, :12] = 200
    seen = appearance([Crop("dark", jpeg(dark)), Crop("lit", jpeg(lit))])
    assert all(values[0] < values[1] for values in seen.values())
    assert seen["light from the left"] == pytest.approx([0, 160], abs=3)


def test_a_clustering_by_brightness_is_found_out() -> None:
    drawn = labelled(40, seed=2)
    crops = [Crop(str(number), jpeg(pixels)) for number, (pixels, _) in enumerate(drawn)]
    scores = np.array([0.9 if label else 0.1 for _, label in drawn])
    appearances = appearance(crops)
    bright = (appearances["brightness"] > np.median(appearances["brightness"])).astype(np.int64)
    by_light = row(clustering(bright.tolist()), scores, appearances)
    by_lids = row(clustering([label for _, label in drawn]), scores, appearances)
    assert by_light["follows"] == "brightness"
    assert by_lids["follows"] == "p_open"
    assert by_lids["sides"] == [CLOSED, OPEN]
    assert by_lids["mean_p_open"] == [0.1, 0.9]


def entry(name: str, silhouette: float | None = 0.1, **other: Any) -> dict[str, Any]:
    good_row = {"feature": "f", "tuned": True, "admissible": True, "sides": [0, 1], "follows": "p_open"}
    return {"name": name, "silhouette": silhouette, **good_row, **other}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (entry("x", tuned=False), "not tuned"),
        (entry("x", silhouette=None, admissible=False), "fewer than two clusters"),
        (entry("x", sides=None), "does not separate"),
        (entry("x", follows="brightness"), "follows brightness"),
        (entry("x", silhouette=0.04), "silhouette under 0.5"),
    ],
)
def test_why_a_clustering_is_not_good(bad: dict[str, Any], reason: str) -> None:
    first, second = mark_good([entry("best"), bad], within=0.5)
    assert (first["good"], first["why_not"]) == (True, None)
    assert not second["good"]
    assert reason in second["why_not"]


@given(st.lists(st.tuples(st.sampled_from("fg"), st.floats(-1, 1)), min_size=1), st.floats(0, 1))
def test_the_best_on_each_feature_set_is_good(items: list[tuple[str, float]], within: float) -> None:
    rows = mark_good([entry(str(i), value, feature=name) for i, (name, value) in enumerate(items)], within)
    for feature in {name for name, _ in items}:
        of_feature = [item for item in rows if item["feature"] == feature]
        assert max(of_feature, key=lambda item: item["silhouette"])["good"]


def test_a_bad_clustering_sets_no_mark() -> None:
    bad, fair = mark_good([entry("bad", 0.9, follows="contrast"), entry("fair", 0.1)], within=1)
    assert not bad["good"]
    assert fair["good"]


def test_maps_are_flat_and_repeatable(space: Space) -> None:
    first, second = maps(space), maps(space)
    assert {name: places.shape for name, places in first.items()} == {"pca": (50, 2), "tsne": (50, 2)}
    for name, places in first.items():
        np.testing.assert_array_equal(places, second[name])
