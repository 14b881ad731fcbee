"""A bundle small enough to make in a test: its score is the mean brightness of the crop."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from eyestate.bundle import InputContract, Manifest, OutputContract, Thresholds, Training

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


def write_bundle(folder: Path, name: str = "brightness") -> Path:
    """Write ``folder/name/`` with model and manifest, and return it."""
    path = folder / name
    path.mkdir(parents=True)
    model = brightness_network()
    (path / "model.onnx").write_bytes(model)
    manifest = Manifest(
        name=name,
        version="1.2.3",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        sha256=hashlib.sha256(model).hexdigest(),
        input=InputContract(name="crops", shape=("batch", SIDE, SIDE)),
        output=OutputContract(name="p_open"),
        thresholds=Thresholds(closed=0.25, open=0.75, rule="made for a test"),
        training=Training(architecture="mean brightness", backbone="", settings={}, data=[], git_revision=""),
        metrics=[],
        parity=0,
    )
    (path / "manifest.json").write_text(manifest.model_dump_json())
    return path
