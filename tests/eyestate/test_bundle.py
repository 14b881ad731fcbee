from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eyestate.bundle import (
    Calibration,
    CascadeBundle,
    DeferralBand,
    Distribution,
    InputContract,
    Member,
    Reference,
    Thresholds,
    cascade_sha256,
    load_bundle,
    load_model,
    models_dir,
)
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
    for name in ("other", "brightness"):
        write_bundle(tmp_path, name)
    monkeypatch.setenv("EYESTATE_MODELS", str(tmp_path))
    with pytest.raises(BundleError, match=r"'brightnes'.*: brightness, other$"):
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


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "1"])
def test_manifest_that_is_no_json_object(tmp_path: Path, content: str) -> None:
    path = write_bundle(tmp_path)
    (path / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match="does not fit this version: the file: "):
        load_bundle(path)


@pytest.mark.parametrize(("write", "version"), [(write_bundle, 1), (write_cascade, 2)])
def test_manifests_are_written_in_the_newest_version(
    tmp_path: Path, write: Callable[[Path], Path], version: int
) -> None:
    assert json.loads((write(tmp_path) / "manifest.json").read_text())["schema_version"] == version


def test_shipped_models_lie_beside_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EYESTATE_MODELS", raising=False)
    monkeypatch.delenv("EYESTATE_MODEL", raising=False)
    assert load_model().path == models_dir() / "cascade"


def test_the_default_is_the_cascade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYESTATE_MODELS", str(tmp_path))
    monkeypatch.delenv("EYESTATE_MODEL", raising=False)
    with pytest.raises(BundleError, match="there is no model 'cascade'"):
        load_model()


def test_a_name_is_looked_up_among_the_models_before_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, other = write_bundle(tmp_path / "models"), write_bundle(tmp_path)
    monkeypatch.setenv("EYESTATE_MODELS", str(model.parent))
    monkeypatch.chdir(tmp_path)
    assert load_bundle("brightness").path == model
    assert load_bundle(f"./{other.name}/../models/brightness").path.samefile(model)


def test_an_environment_variable_gives_way_to_an_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_bundle(tmp_path)
    monkeypatch.setenv("EYESTATE_MODEL", "none")
    assert load_bundle(path).path == path


@pytest.mark.parametrize("content", [b"", b"x"], ids=["empty", "one byte"])
def test_network_of_another_length(tmp_path: Path, content: bytes) -> None:
    path = write_bundle(tmp_path)
    with (path / "model.onnx").open("ab" if content else "wb") as file:
        file.write(content)
    with pytest.raises(BundleError, match="is damaged"):
        load_bundle(path)


def test_the_side_of_the_input_is_that_of_its_shape() -> None:
    assert InputContract(name="crops", shape=("batch", 17, 17)).side == 17


def test_thresholds_leave_room_for_uncertain_scores() -> None:
    assert Thresholds(closed=0, open=1, rule="").open == 1
    with pytest.raises(ValidationError, match="below the open threshold"):
        Thresholds(closed=0.5, open=0.5, rule="")


@pytest.mark.parametrize(
    ("edges", "shares"),
    [
        pytest.param([0.5], [0.25, 0.75], id="one edge"),
        pytest.param([0.5], [0.0, 1.0], id="an empty bin"),
        pytest.param([-1, 0, 7], [0.1, 0.2, 0.3, 0.4], id="several edges"),
        pytest.param([0.5], [0.5, 0.5 + 9e-7], id="rounded"),
    ],
)
def test_distribution(edges: list[float], shares: list[float]) -> None:
    assert Distribution(edges=edges, shares=shares).model_dump() == {"edges": edges, "shares": shares}


@pytest.mark.parametrize(
    ("edges", "shares", "reason"),
    [
        pytest.param([], [1.0], "at least 1 item", id="no edge"),
        pytest.param([0.5], [1.0], "one share more", id="a share is missing"),
        pytest.param([0.5], [0.25, 0.25, 0.5], "one share more", id="a share too many"),
        pytest.param([0.5], [0.5, 0.4], "add up to 1", id="adds up to less"),
        pytest.param([0.5], [0.5, 0.6], "add up to 1", id="adds up to more"),
        pytest.param([0.5], [0.5, 0.5 + 2e-6], "add up to 1", id="is not quite 1"),
        pytest.param([0.5, 0.5], [0.2, 0.3, 0.5], "must increase", id="equal edges"),
        pytest.param([0.7, 0.5], [0.2, 0.3, 0.5], "must increase", id="falling edges"),
        pytest.param([0.5], [1.5, -0.5], "less than or equal to 1", id="a share above 1"),
        pytest.param([0.5, 0.6], [0.8, 0.4, -0.2], "greater than or equal to 0", id="a negative share"),
    ],
)
def test_distribution_must_be_one(edges: list[float], shares: list[float], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Distribution(edges=edges, shares=shares)


@pytest.mark.parametrize(("uncertain", "valid"), [(0, True), (1, True), (-0.01, False), (1.01, False)])
def test_the_uncertain_share_of_a_reference_is_one(uncertain: float, valid: bool) -> None:
    with nullcontext() if valid else pytest.raises(ValidationError, match="uncertain"):
        Reference(data="", crops=1, uncertain=uncertain, features={})


@pytest.mark.parametrize(("temperature", "valid"), [(0.01, True), (5, True), (0, False), (-1, False)])
def test_a_temperature_is_above_zero(temperature: float, valid: bool) -> None:
    with nullcontext() if valid else pytest.raises(ValidationError, match="temperature"):
        Calibration(temperature=temperature, rule="")


class TestCascade:
    def test_comes_with_its_networks(self, tmp_path: Path) -> None:
        bundle = load_model(write_cascade(tmp_path))
        assert isinstance(bundle, CascadeBundle)
        assert (bundle.small.manifest.name, bundle.large.manifest.name) == ("small", "large")

    def test_is_no_single_network(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"both is a cascade.*such as small or large"):
            load_bundle(write_cascade(tmp_path))

    def test_made_for_another_network(self, tmp_path: Path) -> None:
        path = write_cascade(tmp_path)
        shutil.rmtree(tmp_path / "large")
        write_bundle(tmp_path, "large", side=17)
        with pytest.raises(BundleError, match=r"made for another large.*python -m training cascade"):
            load_model(path)

    def test_network_that_is_missing(self, tmp_path: Path) -> None:
        path = write_cascade(tmp_path)
        shutil.rmtree(tmp_path / "small")
        with pytest.raises(BundleError, match=r"no model.*small"):
            load_model(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"deferral_band": {"low": 0.7, "high": 0.3, "rule": ""}},
                "does not fit this version: deferral_band: .*lower bound",
            ),
            ({"deferral_band": {"low": 0.7, "rule": ""}}, r"does not fit this version: deferral_band\.high"),
            ({"deferral_band": {"low": -0.1, "high": 0.3, "rule": ""}}, r"deferral_band\.low"),
            ({"deferral_band": {"low": 0.3, "high": 1.1, "rule": ""}}, r"deferral_band\.high"),
            ({"deferral_band": {"low": 0.30001, "high": 0.7, "rule": ""}}, "is damaged"),
            ({"deferral_band": {"low": 0.3, "high": 0.69999, "rule": ""}}, "is damaged"),
            ({"sha256": "0" * 64}, "is damaged"),
        ],
    )
    def test_manifest_of_another_kind(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        path = write_cascade(tmp_path)
        edit(path, **change)
        with pytest.raises(BundleError, match=message):
            load_model(path)

    def test_band_of_a_single_score(self, tmp_path: Path) -> None:
        bundle = load_model(write_cascade(tmp_path, low=0.5, high=0.5))
        assert isinstance(bundle, CascadeBundle)
        assert bundle.manifest.deferral_band.low == bundle.manifest.deferral_band.high

    def test_networks_that_were_swapped(self, tmp_path: Path) -> None:
        path = write_cascade(tmp_path)
        manifest = json.loads((path / "manifest.json").read_text())
        edit(path, small=manifest["large"], large=manifest["small"])
        with pytest.raises(BundleError, match="is damaged"):
            load_model(path)

    def test_hash_is_that_of_the_networks_and_the_bounds(self) -> None:
        small, large = (Member(name=digit, sha256=digit * 64) for digit in "ab")
        band = DeferralBand(low=0.25, high=0.75, rule="any")
        assert (
            cascade_sha256(small, large, band)
            == hashlib.sha256(b"a" * 64 + b" " + b"b" * 64 + b" 0.25 0.75").hexdigest()
        )

    def test_version_1_of_the_manifest_is_still_read(self, tmp_path: Path) -> None:
        path = write_cascade(tmp_path)
        manifest = json.loads((path / "manifest.json").read_text())
        renamed = {"small": "quick", "large": "thorough", "deferral_band": "unsure"}
        old = {renamed.get(name, name): value for name, value in manifest.items()} | {"schema_version": 1}
        (path / "manifest.json").write_text(json.dumps(old))
        bundle = load_model(path)
        assert bundle.manifest.model_dump(mode="json") == manifest

    def test_the_names_of_version_1_are_refused_in_version_2(self, tmp_path: Path) -> None:
        path = write_cascade(tmp_path)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["quick"] = manifest.pop("small")
        (path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(BundleError, match="does not fit this version: small: Field required"):
            load_model(path)
