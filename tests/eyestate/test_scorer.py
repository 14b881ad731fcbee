from __future__ import annotations

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
from eyestate.bundle import load_bundle
from eyestate.errors import BundleError, CorruptImageError, ImageTooSmallError, UnreadableFileError
from eyestate.images import Pixels
from eyestate.scorer import BATCH, Network, Scorer, Scores
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
    values = np.arange(2 * BATCH + 1)
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


def test_a_bad_crop_fails_the_call(scorer: Scorer) -> None:
    with pytest.raises(ImageTooSmallError):
        scorer.score([grey(0, 8, 8), grey(0, 7, 8)])


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


def test_network_that_is_none(tmp_path: Path) -> None:
    path = write_bundle(tmp_path)
    (path / "model.onnx").write_bytes(b"no network")
    with pytest.raises(BundleError, match="is damaged"):
        eyestate.load(path)


def test_network_that_contradicts_its_manifest(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path))
    bundle.onnx.write_bytes(brightness_network(side=17))
    with pytest.raises(BundleError, match="its manifest declares"):
        Network(bundle)
    bundle.onnx.write_bytes(b"no network")
    with pytest.raises(BundleError, match="cannot load"):
        Network(bundle)


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

    def test_is_a_model_like_any_other(self, cascade: Scorer) -> None:
        assert cascade.manifest.name == "both"
        assert cascade.side == 32
        assert cascade.device == "cpu-fp32"
        assert cascade.states(cascade.score([grey(0, 24, 24), grey(128, 24, 24)])) == ["closed", "uncertain"]


class TestShippedModel:
    def test_tells_the_examples_apart(self) -> None:
        scorer = eyestate.load()
        closed, open_ = scorer.score([EXAMPLES / "closed.jpg", EXAMPLES / "open.jpg"]).tolist()
        assert scorer.state(closed) == "closed"
        assert scorer.state(open_) == "open"

    def test_score_does_not_depend_on_the_company(self) -> None:
        scorer = eyestate.load()
        crops = [EXAMPLES / "closed.jpg", EXAMPLES / "open.jpg"] * BATCH
        np.testing.assert_allclose(scorer.score(crops)[:2], scorer.score(crops[:2]), atol=1e-5)


def test_runtime_imports_no_torch() -> None:
    check = "import sys, eyestate, eyestate.cli, eyestate.server.app; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
