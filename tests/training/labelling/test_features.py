"""Features of generated crops by the real networks; VGG-Face and FaceNet with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eyestate.arrays import Pixels
from eyestate.images import to_input
from tests.training.conftest import jpeg
from training.data.datasets import Crop, DataError
from training.data.synthetic import labelled
from training.labelling import features
from training.labelling.features import (
    MEASURED,
    NOT_MEASURED,
    VGGFACE_FILE,
    Extractor,
    Features,
    Values,
    extract,
    extract_all,
    extractors,
    load_dlib,
    load_facenet,
    load_features,
    load_vggface,
)


@pytest.fixture(scope="module")
def crops() -> list[Crop]:
    return [Crop(f"{number:02d}.jpg", jpeg(pixels)) for number, (pixels, _) in enumerate(labelled(10, seed=3))]


@pytest.fixture(scope="module")
def random_vggface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of VGG-Face under deepface's name, below a DEEPFACE_HOME.

    145 million of them would be 580 MB: each tensor repeats a short random vector with overlapping strides, and only
    the vector is stored.
    """
    from deepface.models.facial_recognition.pytorch.VGGFace import VggFaceBaseModel

    random = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in VggFaceBaseModel().state_dict().items()}
    path = tmp_path_factory.mktemp("home") / ".deepface" / "weights" / VGGFACE_FILE
    path.parent.mkdir(parents=True)
    weights = {
        name: (torch.randn(sum(shape), generator=random) * (2 / max(1, shape[1:].numel())) ** 0.5).as_strided(
            shape, (1,) * len(shape)
        )
        for name, shape in shapes.items()
    }
    torch.save(weights, path)
    assert path.stat().st_size < 1_000_000
    return path


def pixels(side: int, count: int = 3) -> Pixels:
    return np.stack([to_input(drawn, side) for drawn, _ in labelled(count, seed=1)])


def toy(calls: list[int], dimensions: int = 3) -> Extractor:
    """A network that is not there: the first pixels of each crop."""

    def load() -> features.Embed:
        def embed(batch: Pixels) -> Values:
            calls.append(len(batch))
            return batch.reshape(len(batch), -1)[:, :dimensions].astype(np.float32)

        return embed

    return Extractor("toy", "first pixels", 24, dimensions, "none", load)


def test_dlib() -> None:
    embed = load_dlib(features._dlib_weights())
    batch = pixels(150)
    values = embed(batch)
    assert values.shape == (3, 128)
    assert values.dtype == np.float32
    np.testing.assert_allclose(embed(batch[::-1]), values[::-1], atol=1e-5)
    assert np.abs(values[0] - values[1]).max() > 0.01


def test_dlib_without_its_weights(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="face-recognition-models"):
        load_dlib(tmp_path / "net.dat")


def test_facenet_with_random_weights(backbone: Path) -> None:
    values = load_facenet(str(backbone))(pixels(160))
    assert values.shape == (3, 512)
    assert values.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, rtol=1e-5)


def test_vggface_with_random_weights_is_deepfaces(random_vggface: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepface.models.facial_recognition.pytorch.VGGFace import VggFaceClient

    batch = pixels(224, count=2)
    values = load_vggface(random_vggface)(batch)
    assert values.shape == (2, 4096)
    assert values.dtype == np.float32
    assert np.abs(values[0] - values[1]).max() > 1e-4

    monkeypatch.setenv("DEEPFACE_HOME", str(random_vggface.parents[2]))
    client = VggFaceClient()
    client.model.to("cpu")
    client.device = torch.device("cpu")
    theirs = client.forward(np.repeat(batch[..., None], 3, axis=3).astype(np.float32) / 255)
    np.testing.assert_allclose(values, theirs, atol=1e-5)


def test_vggface_is_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepface.commons import weight_utils

    monkeypatch.setattr(weight_utils, "download_weights_if_necessary", lambda **_: pytest.fail("tried to download"))
    with pytest.raises(DataError, match=rf"{VGGFACE_FILE} \(580 MB\) is not in {tmp_path}; fetch https://"):
        load_vggface(tmp_path / VGGFACE_FILE)


@pytest.mark.parametrize("content", [b"", b"<html>Not Found</html>"])
def test_a_vggface_file_of_something_else(content: bytes, tmp_path: Path) -> None:
    (tmp_path / VGGFACE_FILE).write_bytes(content)
    with pytest.raises(DataError, match="holds no VGG-Face weights"):
        load_vggface(tmp_path / VGGFACE_FILE)


def test_vggface_weights_of_another_network(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / VGGFACE_FILE)
    with pytest.raises(DataError, match="holds no VGG-Face weights"):
        load_vggface(tmp_path / VGGFACE_FILE)


def test_computed_once(crops: list[Crop], tmp_path: Path) -> None:
    calls: list[int] = []
    entry = extract(toy(calls), crops, tmp_path)
    assert (entry["status"], entry["crops"], entry["dimensions"]) == (MEASURED, 10, 3)
    assert sum(calls) == 10
    assert extract(toy(calls), crops, tmp_path) == entry
    assert sum(calls) == 10
    assert [path.name for path in tmp_path.iterdir()] == ["toy.npz"]


def test_computed_again_for_other_crops_or_weights(crops: list[Crop], tmp_path: Path) -> None:
    calls: list[int] = []
    extract(toy(calls), crops, tmp_path)
    extract(toy(calls), crops[1:], tmp_path)
    assert sum(calls) == 10 + 9
    extract(replace(toy(calls), weights="others"), crops[1:], tmp_path)
    assert sum(calls) == 10 + 9 + 9


def test_a_killed_run_keeps_its_chunks(crops: list[Crop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK", 4)
    calls: list[int] = []
    steady = toy(calls)

    def failing() -> features.Embed:
        embed = steady.load()

        def until_killed(batch: Pixels) -> Values:
            if len(calls) == 2:
                raise KeyboardInterrupt
            return embed(batch)

        return until_killed

    with pytest.raises(KeyboardInterrupt):
        extract(replace(steady, load=failing), crops, tmp_path)
    assert not (tmp_path / "toy.npz").exists()
    extract(steady, crops, tmp_path)
    assert calls == [4, 4, 2]
    expected = np.load(tmp_path / "toy.npz")
    extract(steady, crops, tmp_path / "whole")
    np.testing.assert_array_equal(np.load(tmp_path / "whole" / "toy.npz")["features"], expected["features"])


def test_missing_weights_are_a_row(crops: list[Crop], tmp_path: Path) -> None:
    missing = extractors(tmp_path, "casia-webface")[1]
    entries = extract_all([toy([]), missing], crops, tmp_path)
    assert [entry["status"] for entry in entries] == [MEASURED, NOT_MEASURED]
    assert VGGFACE_FILE in entries[1]["reason"]
    found, again = load_features(tmp_path)
    assert again == entries
    assert found["toy"].files == [crop.name for crop in crops]
    assert found["toy"].values.shape == (10, 3)


def test_features_that_cannot_be_renewed_go(crops: list[Crop], tmp_path: Path) -> None:
    missing = extractors(tmp_path, "casia-webface")[1]
    (tmp_path / "vggface.npz").write_bytes(b"of other crops")
    assert extract(missing, crops, tmp_path)["status"] == NOT_MEASURED
    assert not (tmp_path / "vggface.npz").exists()


def test_no_network_at_all(crops: list[Crop], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=VGGFACE_FILE):
        extract_all(extractors(tmp_path, "casia-webface")[1:2], crops, tmp_path)


def test_no_crops(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no crops"):
        extract(toy([]), [], tmp_path)


def test_features_of_different_crops(crops: list[Crop], tmp_path: Path) -> None:
    extract_all([toy([]), replace(toy([]), name="toy2")], crops, tmp_path)
    extract(replace(toy([]), name="toy2"), crops[1:], tmp_path)
    with pytest.raises(DataError, match="not of the same crops"):
        load_features(tmp_path)


def test_features_before_they_are_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="`python -m training features` makes it"):
        load_features(tmp_path)


def test_every_extractor_says_what_it_gives(tmp_path: Path) -> None:
    described = {item.name: (item.side, item.dimensions) for item in extractors(tmp_path, "casia-webface")}
    assert described == {"dlib": (150, 128), "vggface": (224, 4096), "facenet": (160, 512)}
    assert isinstance(Features([], np.zeros((0, 1), np.float32), ""), Features)
