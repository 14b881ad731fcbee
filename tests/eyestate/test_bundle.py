from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from eyestate.bundle import CascadeBundle, load_bundle, load_model
from eyestate.errors import BundleError
from tests.bundles import write_bundle, write_cascade


def edit(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


def test_by_path(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path))
    assert bundle.manifest.name == "brightness"
    assert bundle.onnx.is_file()


def test_by_name_and_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bundle(tmp_path)
    monkeypatch.setenv("EYESTATE_MODELS", str(tmp_path))
    assert load_bundle("brightness").path == path
    monkeypatch.setenv("EYESTATE_MODEL", "brightness")
    assert load_bundle().path == path


def test_unknown_name_lists_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path)
    monkeypatch.setenv("EYESTATE_MODELS", str(tmp_path))
    with pytest.raises(BundleError, match=r"'brightnes'.*: brightness"):
        load_bundle("brightnes")


def test_no_models_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESTATE_MODELS", str(tmp_path))
    with pytest.raises(BundleError, match="EYESTATE_MODELS"):
        load_bundle()


@pytest.mark.parametrize("missing", ["model.onnx", "manifest.json"])
def test_incomplete(tmp_path: Path, missing: str) -> None:
    path = write_bundle(tmp_path)
    (path / missing).unlink()
    with pytest.raises(BundleError, match=f"{missing} is missing"):
        load_bundle(path)


def test_one_flipped_bit(tmp_path: Path) -> None:
    path = write_bundle(tmp_path)
    model = bytearray((path / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (path / "model.onnx").write_bytes(model)
    with pytest.raises(BundleError, match="is damaged"):
        load_bundle(path)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"sha256": "short"}, "sha256"),
        ({"thresholds": {"closed": 0.9, "open": 0.1, "rule": ""}}, "thresholds"),
        ({"thresholds": {"closed": -1, "open": 0.9, "rule": ""}}, "thresholds.closed"),
        ({"classes": ["open", "closed"]}, "classes"),
        ({"input": {"name": "crops", "shape": ["batch", 16, 32]}}, "input"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_manifest_of_another_kind(tmp_path: Path, change: dict[str, Any], where: str) -> None:
    path = write_bundle(tmp_path)
    edit(path, **change)
    with pytest.raises(BundleError, match=f"does not fit this version: {where}"):
        load_bundle(path)


def test_manifest_that_is_no_json(tmp_path: Path) -> None:
    path = write_bundle(tmp_path)
    (path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="does not fit this version"):
        load_bundle(path)


class TestCascade:
    def test_comes_with_its_networks(self, tmp_path: Path) -> None:
        bundle = load_model(write_cascade(tmp_path))
        assert isinstance(bundle, CascadeBundle)
        assert (bundle.quick.manifest.name, bundle.thorough.manifest.name) == ("quick", "thorough")

    def test_is_no_single_network(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"both is a cascade.*such as quick or thorough"):
            load_bundle(write_cascade(tmp_path))

    def test_made_for_another_network(self, tmp_path: Path) -> None:
        path = write_cascade(tmp_path)
        shutil.rmtree(tmp_path / "thorough")
        write_bundle(tmp_path, "thorough", side=17)
        with pytest.raises(BundleError, match=r"made for another thorough.*python -m training cascade"):
            load_model(path)

    def test_network_that_is_missing(self, tmp_path: Path) -> None:
        path = write_cascade(tmp_path)
        shutil.rmtree(tmp_path / "quick")
        with pytest.raises(BundleError, match=r"no model.*quick"):
            load_model(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"unsure": {"low": 0.7, "high": 0.3, "rule": ""}}, "does not fit this version: unsure: .*lower bound"),
            ({"unsure": {"low": 0.7, "rule": ""}}, r"does not fit this version: unsure\.high"),
            ({"sha256": "0" * 64}, "is damaged"),
        ],
    )
    def test_manifest_of_another_kind(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        path = write_cascade(tmp_path)
        edit(path, **change)
        with pytest.raises(BundleError, match=message):
            load_model(path)
