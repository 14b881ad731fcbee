"""A bundle with a network so small that a load test measures serving rather than inference.

It has the interface of ``models/final_best`` (uint8 crops in, P(open) out). Its weights are random numbers from a fixed
seed: it is untrained, its scores are meaningless, and it serves to measure speed only.
"""

from __future__ import annotations

import hashlib
import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from eyestate.atomic import write_atomically
from eyestate.bundle import InputContract, Manifest, OutputContract, Thresholds, Training

SIDE: Final = 32
NAME: Final = "small"
_CHANNELS: Final = (1, 16, 32, 64)
_SEED: Final = 0


def mflop() -> float:
    """Floating-point operations of the convolutions per crop, in 10⁶; a multiply-add counts as two."""
    layers = itertools.pairwise(_CHANNELS)
    return sum(2 * 9 * before * after * (SIDE >> depth) ** 2 for depth, (before, after) in enumerate(layers)) / 1e6


def small_network() -> onnx.ModelProto:
    """A network from uint8 crops (batch, SIDE, SIDE) to P(open), float32 (batch,).

    Three 3×3 convolutions with ReLU and max pooling, global average pooling, one neuron.
    """
    random = np.random.default_rng(_SEED)
    weights = [numpy_helper.from_array(np.array([1], np.int64), "channel_axis")]
    weights.append(numpy_helper.from_array(np.array([-1], np.int64), "last_axis"))
    weights.append(numpy_helper.from_array(np.array(255, np.float32), "white"))
    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "white"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "channel_axis"], ["level0"]),
    ]
    for level, (before, after) in enumerate(itertools.pairwise(_CHANNELS)):
        kernel = random.normal(0, (2 / (9 * before)) ** 0.5, (after, before, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"kernel{level}"))
        nodes += [
            helper.make_node("Conv", [f"level{level}", f"kernel{level}"], [f"conv{level}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"conv{level}"], [f"relu{level}"]),
            helper.make_node("MaxPool", [f"relu{level}"], [f"level{level + 1}"], kernel_shape=[2, 2], strides=[2, 2]),
        ]
    neuron = random.normal(0, 1, (_CHANNELS[-1], 1)).astype(np.float32)
    weights.append(numpy_helper.from_array(neuron, "neuron"))
    nodes += [
        helper.make_node("GlobalAveragePool", [f"level{len(_CHANNELS) - 1}"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("MatMul", ["features", "neuron"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["column"]),
        helper.make_node("Squeeze", ["column", "last_axis"], ["p_open"]),
    ]
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["batch", SIDE, SIDE])],
        [helper.make_tensor_value_info("p_open", TensorProto.FLOAT, ["batch"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def write_small_bundle(models: Path) -> Path:
    """Write ``models/small/`` with model and manifest, replacing an existing one, and return its path."""
    path = models / NAME
    path.mkdir(parents=True, exist_ok=True)
    model = small_network().SerializeToString()
    write_atomically(path / "model.onnx", model)
    manifest = Manifest(
        name=NAME,
        version="0.0.0",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        sha256=hashlib.sha256(model).hexdigest(),
        input=InputContract(name="crops", shape=("batch", SIDE, SIDE)),
        output=OutputContract(name="p_open"),
        thresholds=Thresholds(closed=0.25, open=0.75, rule="none: the network is untrained, for measuring speed"),
        training=Training(
            architecture=f"three convolutions, {mflop():.1f} MFLOP, random weights, untrained",
            backbone="",
            settings={"seed": _SEED},
            data=[],
            git_revision="",
        ),
        metrics=[],
        parity=0,
    )
    write_atomically(path / "manifest.json", manifest.model_dump_json(indent=2) + "\n")
    return path
