"""Labels from clusterings, and the commands that lead to them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tests.training.conftest import jpeg
from training.__main__ import main
from training.data.datasets import CLOSED, OPEN, DataError, load_crops
from training.data.labels import Answer, Label, read_labels, write_answers, write_labels
from training.data.split import hold_out
from training.data.synthetic import labelled
from training.labelling.cluster import ALGORITHMS, NOISE, UNDECIDED, name_sides, sides
from training.labelling.consensus import (
    Votes,
    confirmed,
    good_votes,
    majority,
    to_labels,
    unanimous,
    variants,
    vote_shares,
)
from training.labelling.features import MEASURED, NOT_MEASURED

some_votes = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([-1, 0, 1]))
CROPS = 36


def training(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="python -m training")


@given(some_votes)
def test_never_keeps_a_crop_on_which_two_clusterings_differ(votes: Votes) -> None:
    kept = unanimous(votes) != UNDECIDED
    assert (votes[:, kept] == votes[0, kept]).all()
    assert (votes[:, kept] != UNDECIDED).all()
    assert all(len(set(column)) > 1 or column[0] == UNDECIDED for column in votes[:, ~kept].T)


@given(some_votes)
def test_what_all_say_most_say(votes: Votes) -> None:
    kept = unanimous(votes) != UNDECIDED
    assert (majority(votes)[kept] == unanimous(votes)[kept]).all()


@given(some_votes, st.randoms(use_true_random=False))
def test_the_order_of_the_clusterings_is_nothing(votes: Votes, random: Any) -> None:
    order = list(range(len(votes)))
    random.shuffle(order)
    np.testing.assert_array_equal(unanimous(votes), unanimous(votes[order]))
    np.testing.assert_array_equal(majority(votes), majority(votes[order]))


@given(some_votes, st.data())
def test_a_network_only_takes_labels_away(votes: Votes, data: st.DataObject) -> None:
    scores = data.draw(arrays(np.float64, votes.shape[1], elements=st.floats(0, 1)))
    agreed = unanimous(votes)
    kept = confirmed(agreed, scores)
    assert ((kept == agreed) | (kept == UNDECIDED)).all()
    assert (scores[kept == OPEN] >= 0.95).all()
    assert (scores[kept == CLOSED] <= 0.05).all()


@given(
    arrays(np.int64, 30, elements=st.integers(-1, 3)),
    arrays(np.float64, 30, elements=st.floats(0, 1)),
    st.permutations(range(4)),
)
def test_the_numbers_of_the_clusters_are_nothing(clusters: Votes, scores: Any, numbers: list[int]) -> None:
    renamed = np.where(clusters == NOISE, NOISE, np.array(numbers)[clusters])
    np.testing.assert_array_equal(
        sides(clusters, name_sides(clusters, scores)), sides(renamed, name_sides(renamed, scores))
    )


def test_votes_are_counted_without_noise() -> None:
    votes = np.array([[1, 1, -1, -1, 0], [1, 0, 1, -1, 0], [1, -1, 1, -1, 1]])
    np.testing.assert_array_equal(vote_shares(votes), [1, 0.5, 1, np.nan, 1 / 3])
    np.testing.assert_array_equal(unanimous(votes), [OPEN, UNDECIDED, UNDECIDED, UNDECIDED, UNDECIDED])
    np.testing.assert_array_equal(majority(votes), [OPEN, UNDECIDED, OPEN, UNDECIDED, CLOSED])
    assert to_labels(list("abcde"), majority(votes), vote_shares(votes)) == [
        Label("a", OPEN, 1.0, "consensus"),
        Label("c", OPEN, 1.0, "consensus"),
        Label("e", CLOSED, 1 / 3, "consensus"),
    ]


def test_variants_are_named_after_their_files() -> None:
    assert list(variants(np.array([[1]]), np.array([0.99]))) == ["labels", "majority", "views"]


def test_only_good_clusterings_vote() -> None:
    rows = [
        {"name": "good", "good": True, "why_not": None, "tuned": True, "sides": [1, 0]},
        {"name": "bad", "good": False, "why_not": "follows brightness", "tuned": True, "sides": [0, 1]},
    ]
    clusters = np.array([0, 1, 1, NOISE])
    votes = good_votes(rows, {"good": clusters, "bad": clusters})
    assert list(votes) == ["good"]
    np.testing.assert_array_equal(votes["good"], [1, 0, 0, UNDECIDED])
    with pytest.raises(DataError, match="bad: follows brightness"):
        good_votes(rows[1:], {"bad": clusters})


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated crops without labels; open_… and closed_… by name, for the test's eyes only."""
    folder = tmp_path_factory.mktemp("crops")
    for number, (pixels, label) in enumerate(labelled(CROPS, seed=5)):
        (folder / f"{('closed', 'open')[label]}_{number:02d}.jpg").write_bytes(jpeg(pixels))
    return folder


@pytest.fixture(scope="module")
def runs(crops: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of a pass through `features` and `cluster`, FaceNet with random weights."""
    folder = tmp_path_factory.mktemp("runs")
    pool = hold_out(load_crops(crops).crops)[0]
    scores = [Label(crop.name, None, 0.98 if crop.name.startswith("open") else 0.02, "pseudo") for crop in pool]
    write_labels(folder / "scores.csv", scores)
    made = training(
        "features",
        *("--crops", crops, "--backbone", backbone),
        *("--weights", folder / "none", "--output", folder / "features"),
    )
    assert made.exit_code == 0, made.output
    assert NOT_MEASURED in made.stdout
    assert str(folder / "none") in made.stdout
    clustered = cluster(crops, folder)
    assert clustered.exit_code == 0, clustered.output
    return folder


def cluster(crops: Path, folder: Path, *options: str | Path) -> Result:
    return training(
        "cluster",
        *("--crops", crops, "--features", folder / "features", "--scores", folder / "scores.csv"),
        *("--trials", "3", "--within", "0", "--output", folder / "cluster", *options),
    )


def vote(folder: Path, *options: str | Path) -> Result:
    return training(
        "consensus",
        *("--features", folder / "features", "--scores", folder / "scores.csv", "--clusters", folder / "cluster"),
        *("--output", folder / "consensus", *options),
    )


def test_features_of_the_pool_alone(crops: Path, runs: Path) -> None:
    pool, held_out = hold_out(load_crops(crops).crops)
    assert held_out
    entries = json.loads((runs / "features" / "features.json").read_text())
    assert {entry["name"]: entry["status"] for entry in entries} == {
        "dlib": MEASURED,
        "vggface": NOT_MEASURED,
        "facenet": MEASURED,
    }
    assert np.load(runs / "features" / "dlib.npz")["files"].tolist() == [crop.name for crop in pool]


def test_every_clustering_has_a_row(runs: Path) -> None:
    rows = json.loads((runs / "cluster" / "clusterings.json").read_text())
    assert len(rows) == 3 * 2 * len(ALGORITHMS)
    for row in rows:
        assert row["good"] == (row["why_not"] is None)
        assert (row["why_not"] == NOT_MEASURED) == (row["feature"] == "vggface")
    for name in ("maps.png", "samples-dlib.png", "plots/dlib-kmeans-history.png", "plots/facenet-dbscan-slice.png"):
        assert (runs / "cluster" / name).stat().st_size > 5_000


def test_a_search_goes_on_where_it_was(crops: Path, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "cluster", tmp_path / "cluster")
    before = json.loads((tmp_path / "cluster" / "clusterings.json").read_text())
    assert cluster(crops, runs, "--output", tmp_path / "cluster").exit_code == 0
    assert json.loads((tmp_path / "cluster" / "clusterings.json").read_text()) == before


def test_consensus(crops: Path, runs: Path) -> None:
    pool = [crop.name for crop in hold_out(load_crops(crops).crops)[0]]
    truth = {name: int(name.startswith("open")) for name in pool}
    write_answers(runs / "answers.csv", [Answer(name, label, 2, 2 * label) for name, label in truth.items()])
    result = vote(runs, "--answers", runs / "answers.csv")
    assert result.exit_code == 0, result.output
    metrics = json.loads((runs / "consensus" / "metrics.json").read_text())
    written = {name: read_labels(runs / "consensus" / f"{name}.csv") for name in ("labels", "majority", "views")}
    for name, items in written.items():
        right = sum(item.label == truth[item.file] for item in items)
        assert metrics[name]["kept"] == len(items)
        assert metrics[name]["quality"]["unanimous"]["n"] == len(items)
        if items:
            assert metrics[name]["quality"]["all"]["accuracy"]["value"] == pytest.approx(right / len(items))
        assert (runs / "consensus" / f"{name}-maps.png").stat().st_size > 5_000
    files = {name: {item.file for item in items} for name, items in written.items()}
    assert files["views"] <= files["labels"] <= files["majority"] <= set(pool)
    assert files["labels"]
    assert set(metrics["good"]) <= set(metrics["clusterings"])


def test_consensus_without_answers(runs: Path) -> None:
    assert vote(runs, "--answers", runs / "nobody.csv").exit_code == 0
    assert "quality" not in json.loads((runs / "consensus" / "metrics.json").read_text())["labels"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["cluster", "--features", "none"], "`python -m training features` makes it"),
        (["consensus", "--clusters", "none"], "`python -m training cluster` makes it"),
    ],
)
def test_a_missing_stage_is_named(arguments: list[str], complaint: str, crops: Path, tmp_path: Path) -> None:
    source: list[str | Path] = ["--crops", crops] if arguments[0] == "cluster" else []
    result = training(*arguments, *source, "--output", tmp_path)
    assert result.exit_code == 1
    assert complaint in result.stderr


def test_scores_of_other_crops(crops: Path, runs: Path, tmp_path: Path) -> None:
    write_labels(tmp_path / "scores.csv", [Label("other.jpg", None, 0.5, "pseudo")])
    result = cluster(crops, runs, "--scores", tmp_path / "scores.csv", "--output", tmp_path / "cluster")
    assert result.exit_code == 1
    assert "python -m training score" in result.stderr
    assert not (tmp_path / "cluster").exists()


def test_features_of_other_crops(crops: Path, runs: Path, tmp_path: Path) -> None:
    for path in sorted(crops.iterdir())[:20]:
        shutil.copy(path, tmp_path)
    result = cluster(tmp_path, runs)
    assert result.exit_code == 1
    assert "of other crops" in result.stderr


@pytest.mark.parametrize("verb", ["features", "cluster", "consensus"])
def test_help(verb: str) -> None:
    result = training(verb, "--help")
    assert result.exit_code == 0
    assert "--output" in result.stdout
