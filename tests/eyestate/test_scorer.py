from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import eyestate
from eyestate.arrays import Pixels, Scores
from eyestate.bundle import Bundle, load_bundle, load_model
from eyestate.engine import Engine
from eyestate.errors import (
    BundleError,
    CorruptImageError,
    ImageError,
    ImageTooLargeError,
    ImageTooSmallError,
    UnreadableFileError,
)
from eyestate.scorer import BATCH, Network, Scorer, open_scorer
from eyestate.settings import Device
from tests.bundles import brightness_network, write_bundle, write_cascade

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def scorer(tmp_path: Path) -> Scorer:
    """Its scores are mean brightness."""
    return eyestate.load(write_bundle(tmp_path))


def grey(value: int, *shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full(shape, value, np.uint8)


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(grey(value, 10, 12)).save(file, "PNG")
    return file.getvalue()


def test_arrays_bytes_and_paths(scorer: Scorer, tmp_path: Path) -> None:
    (tmp_path / "eye.png").write_bytes(png(51))
    path = tmp_path / "eye.png"
    crops: list[Pixels | bytes | str | Path] = [grey(0, 8, 8), grey(255, 20, 30, 3), png(102), path, str(path)]
    scores = scorer.score(crops)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [0, 1, 0.4, 0.2, 0.2], atol=1e-6)


def test_one_array_of_crops(scorer: Scorer) -> None:
    values = np.arange(2 * BATCH + 1) % 256
    crops = np.stack([grey(int(value), 24, 24) for value in values])
    np.testing.assert_allclose(scorer.score(crops), values / 255, atol=1e-6)
    np.testing.assert_allclose(scorer.score(np.repeat(crops[..., None], 3, axis=3)), values / 255, atol=1e-6)


def test_no_crops(scorer: Scorer) -> None:
    assert scorer.score([]).shape == (0,)
    assert scorer.score_each([]) == []


def test_score_each_keeps_the_good_ones(scorer: Scorer, tmp_path: Path) -> None:
    dark, broken, missing, bright = scorer.score_each([png(0), png(0)[:45], tmp_path / "none.png", png(255)])
    assert (dark, bright) == (0, 1)
    assert isinstance(broken, CorruptImageError)
    assert isinstance(missing, UnreadableFileError)
    assert "none.png" in missing.message


@pytest.mark.parametrize("shape", [(7, 8), (8, 7), (7, 8, 3), (8, 7, 3)])
def test_a_crop_that_is_too_small_on_either_side_fails_the_call(scorer: Scorer, shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageTooSmallError):
        scorer.score([grey(0, 8, 8), grey(0, *shape)])


@pytest.mark.parametrize("shape", [(4_097, 8), (8, 4_097)])
def test_a_crop_that_is_too_large_on_either_side_fails_the_call(scorer: Scorer, shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageTooLargeError):
        scorer.score([grey(0, *shape)])
    assert scorer.score([grey(51, 8, 4_096), grey(51, 4_096, 8)]) == pytest.approx([0.2, 0.2], abs=1e-6)


@pytest.mark.parametrize(
    ("crop", "error"),
    [
        (np.zeros((8, 8)), TypeError),
        (None, TypeError),
        (grey(0, 8), ValueError),
        (grey(0, 8, 8, 4), ValueError),
    ],
    ids=["floats", "none", "vector", "four channels"],
)
def test_no_crop(scorer: Scorer, crop: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="a crop"):
        scorer.score([crop])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("score", "state"), [(0.0, "closed"), (0.25, "closed"), (0.2501, "uncertain"), (0.75, "open"), (1.0, "open")]
)
def test_states(scorer: Scorer, score: float, state: str) -> None:
    assert scorer.state(score) == state


@given(st.lists(st.floats(0, 1, width=32) | st.sampled_from([0, 0.25, 0.75, 1])))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_states_are_the_state_of_each_score(scorer: Scorer, scores: list[float]) -> None:
    assert scorer.states(np.array(scores, np.float32)) == [scorer.state(score) for score in scores]


def test_score_each_puts_errors_where_the_crops_are(scorer: Scorer) -> None:
    values = [place % 256 for place in range(BATCH + 3)]
    broken = {0, 5, 6, BATCH, BATCH + 2}
    scores = scorer.score_each([b"x" if place in broken else png(value) for place, value in enumerate(values)])
    for place, (value, score) in enumerate(zip(values, scores, strict=True)):
        if place in broken:
            assert isinstance(score, ImageError)
        else:
            assert score == pytest.approx(value / 255, abs=1e-6)


def test_network_that_is_none(tmp_path: Path) -> None:
    path = write_bundle(tmp_path)
    (path / "model.onnx").write_bytes(b"no network")
    with pytest.raises(BundleError, match="is damaged"):
        eyestate.load(path)


def test_network_that_contradicts_its_manifest(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path))
    with pytest.raises(BundleError, match="its manifest declares"):
        Network(dataclasses.replace(bundle, content=brightness_network(side=17)))
    with pytest.raises(BundleError, match="cannot load"):
        Network(dataclasses.replace(bundle, content=b"no network"))


def test_what_was_verified_is_what_scores(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path))
    crop = np.full((16, 16), 200, np.uint8)
    before = Network(bundle).score([crop])
    bundle.onnx.write_bytes(b"damaged since")
    assert Network(bundle).score([crop]) == before


class TestCascade:
    @pytest.fixture
    def cascade(self, tmp_path: Path) -> Scorer:
        return eyestate.load(write_cascade(tmp_path, low=0.3, high=0.7), device="cpu")

    def test_asks_the_large_network_where_the_small_one_is_unsure(
        self, cascade: Scorer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = Network.run

        def marked(network: Network, batch: Pixels) -> Scores:
            return run(network, batch) + (10 if network.manifest.name == "large" else 0)

        monkeypatch.setattr(Network, "run", marked)
        crops = [grey(value, 24, 24) for value in (0, 76, 77, 128, 178, 179, 255)]
        scores = cascade.score(crops)
        assert (scores > 5).tolist() == [False, False, True, True, True, False, False]
        assert cascade.deferred == 3

    @given(data=st.data())
    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_parts_of_any_size_keep_their_order(self, cascade: Scorer, data: st.DataObject) -> None:
        sizes = data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(8, 40), st.integers(8, 40)), min_size=1))
        shades = [data.draw(st.lists(st.integers(0, 255), min_size=n, max_size=n)) for n, _, _ in sizes]
        parts = [
            np.broadcast_to(np.array(values, np.uint8)[:, None, None], (n, height, width)).copy()
            for values, (n, height, width) in zip(shades, sizes, strict=True)
            if n
        ]
        if parts:
            expected = [value / 255 for values in shades for value in values]
            np.testing.assert_allclose(cascade.score_parts(parts), expected, atol=1e-6)

    @pytest.fixture
    def computed(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
        """The network and the crops of each inference; the large network's scores are 10 higher."""
        inferences: list[tuple[str, int]] = []
        run = Network.run

        def noted(network: Network, batch: Pixels) -> Scores:
            inferences.append((network.manifest.name, len(batch)))
            return run(network, batch) + (10 if network.manifest.name == "large" else 0)

        monkeypatch.setattr(Network, "run", noted)
        return inferences

    def test_both_bounds_belong_to_the_deferral_band(self, tmp_path: Path, computed: list[tuple[str, int]]) -> None:
        cascade = eyestate.load(write_cascade(tmp_path, low=51 / 255, high=153 / 255), device="cpu")
        scores = cascade.score([grey(value, 24, 24) for value in (50, 51, 52, 152, 153, 154)])
        assert (scores > 5).tolist() == [False, True, True, True, True, False]
        assert cascade.deferred == 4

    def test_the_large_network_computes_nothing_but_what_is_deferred(
        self, cascade: Scorer, computed: list[tuple[str, int]]
    ) -> None:
        cascade.score([grey(value, 24, 24) for value in (0, 128, 255, 129)])
        cascade.score([grey(value, 24, 24) for value in (0, 255)])
        cascade.score([grey(128, 24, 24)])
        assert computed == [("small", 4), ("large", 2), ("small", 2), ("small", 1), ("large", 1)]
        assert cascade.deferred == 3

    def test_runs_a_batch_of_model_inputs(self, cascade: Scorer, computed: list[tuple[str, int]]) -> None:
        batch = np.stack([grey(value, cascade.side, cascade.side) for value in (0, 102, 255)])
        np.testing.assert_allclose(cascade.run(batch), [0, 10.4, 1], atol=1e-6)

    @given(
        parts=st.lists(st.tuples(st.integers(8, 40), st.lists(st.integers(0, 255), min_size=1, max_size=5)), min_size=1)
    )
    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_each_crop_gets_its_score_from_its_network(
        self, cascade: Scorer, computed: list[tuple[str, int]], parts: list[tuple[int, list[int]]]
    ) -> None:
        crops = [np.stack([grey(value, side, side) for value in values]) for side, values in parts]
        shares = [value / 255 for _, values in parts for value in values]
        expected = [share + 10 if 0.3 <= share <= 0.7 else share for share in shares]
        np.testing.assert_allclose(cascade.score_parts(crops), expected, atol=1e-5)

    def test_is_a_model_like_any_other(self, cascade: Scorer) -> None:
        assert cascade.manifest.name == "both"
        assert cascade.side == 32
        assert cascade.device == "cpu-fp32"
        assert cascade.states(cascade.score([grey(0, 24, 24), grey(128, 24, 24)])) == ["closed", "uncertain"]

    @pytest.mark.parametrize(("threads", "of_small"), [(1, 1), (2, 1), (16, 2)])
    def test_small_network_has_an_eighth_of_the_threads(
        self, threads: int, of_small: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: dict[str, int | None] = {}

        class Recorded(Engine):
            def __init__(self, bundle: Bundle, device: Device, threads: int | None) -> None:
                given[bundle.manifest.name] = threads
                super().__init__(bundle, device, threads)

        monkeypatch.setattr("eyestate.scorer.Engine", Recorded)
        open_scorer(load_model(str(write_cascade(tmp_path))), "cpu", threads)
        assert given == {"small": of_small, "large": threads}


class TestShippedModel:
    def test_tells_the_examples_apart(self) -> None:
        scorer = eyestate.load()
        closed, open_ = scorer.score([EXAMPLES / "closed.jpg", EXAMPLES / "open.jpg"]).tolist()
        assert scorer.state(closed) == "closed"
        assert scorer.state(open_) == "open"

    def test_score_does_not_depend_on_the_company(self) -> None:
        scorer = eyestate.load()
        crops = [EXAMPLES / "closed.jpg", EXAMPLES / "open.jpg"] * 20
        np.testing.assert_allclose(scorer.score(crops)[:2], scorer.score(crops[:2]), atol=1e-5)


def test_runtime_imports_no_torch() -> None:
    check = "import sys, eyestate, eyestate.cli, eyestate.server.app; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
