"""A bundle small enough to make in a test: its score is the mean brightness of the crop."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from eyestate.bundle import (
    CascadeManifest,
    DeferralBand,
    InputContract,
    Manifest,
    Member,
    OutputContract,
    Thresholds,
    Training,
    cascade_sha256,
    load_bundle,
)

SIDE = 16


def brightness_network(side: int = SIDE) -> bytes:
    """uint8 crops (batch, side, side) to float32 mean / 255 (batch,), as ONNX."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
            helper.make_node("Div", ["means", "white"], ["p_open"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["batch", side, side])],
        [helper.make_tensor_value_info("p_open", TensorProto.FLOAT, ["batch"])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2]),
            helper.make_tensor("white", TensorProto.FLOAT, [], [255.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def write_bundle(folder: Path, name: str = "brightness", side: int = SIDE) -> Path:
    """Write ``folder/name/`` with model and manifest, and return it."""
    path = folder / name
    path.mkdir(parents=True)
    model = brightness_network(side)
    (path / "model.onnx").write_bytes(model)
    manifest = Manifest(
        name=name,
        version="1.2.3",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        sha256=hashlib.sha256(model).hexdigest(),
        input=InputContract(name="crops", shape=("batch", side, side)),
        output=OutputContract(name="p_open"),
        thresholds=Thresholds(closed=0.25, open=0.75, rule="made for a test"),
        training=Training(architecture="mean brightness", backbone="", settings={}, data=[], git_revision=""),
        metrics=[],
        parity=0,
    )
    (path / "manifest.json").write_text(manifest.model_dump_json())
    return path


def write_cascade(folder: Path, low: float = 0.3, high: float = 0.7) -> Path:
    """Write ``folder/both/``, a cascade, and its networks ``small`` and ``large``; return it.

    Both score by mean brightness, the large one at twice the side.
    """
    small, large = (
        Member(name=name, sha256=load_bundle(write_bundle(folder, name, side)).manifest.sha256)
        for name, side in (("small", SIDE), ("large", 2 * SIDE))
    )
    band = DeferralBand(low=low, high=high, rule="made for a test")
    manifest = CascadeManifest(
        name="both",
        version="1.2.3",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        sha256=cascade_sha256(small, large, band),
        small=small,
        large=large,
        deferral_band=band,
        thresholds=Thresholds(closed=0.25, open=0.75, rule="made for a test"),
        metrics=[],
    )
    path = folder / "both"
    path.mkdir()
    (path / "manifest.json").write_text(manifest.model_dump_json())
    return path
