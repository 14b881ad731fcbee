from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from eyestate.execution import open_session
from loadtests.int8 import with_float32_weights, write_int8
from loadtests.small_bundle import SIDE, write_small_bundle


def test_int8_scores_are_near(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    crops = random.integers(0, 256, (64, SIDE, SIDE)).astype(np.uint8)
    network = write_small_bundle(tmp_path) / "model.onnx"
    write_int8(network, crops, tmp_path / "int8.onnx")
    wide, narrow = (
        open_session(path, "cpu", 1)[0].run(None, {"crops": crops[:16]})[0]
        for path in (network, tmp_path / "int8.onnx")
    )
    assert 0 < np.abs(wide - narrow).max() < 0.05
    operators = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators


def test_weights_stored_in_float16_are_widened() -> None:
    half = np.array([0.5, 1.25], np.float16)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["weight.fp16"], ["weight"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["wide", "weight"], ["y"]),
        ],
        "halved",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(half, "weight.fp16")],
    )
    model = with_float32_weights(helper.make_model(graph))
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Cast", "Mul"]
    (weight,) = model.graph.initializer
    assert weight.name == "weight"
    assert numpy_helper.to_array(weight).dtype == np.float32
    assert np.array_equal(numpy_helper.to_array(weight), half)
