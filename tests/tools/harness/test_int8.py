from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tools.harness.crops import jpeg
from tools.harness.int8 import (
    CALIBRATION_CROPS,
    calibration_crops,
    first_convolutions,
    with_float32_weights,
    write_int8,
)
from tools.harness.small_bundle import SIDE, write_small_bundle
from training.data.datasets import Crop


def scores(network: Path, crops: np.ndarray) -> np.ndarray:
    """In float32 arithmetic on any machine: without fusion no int8 kernel is used, some of which saturate."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"crops": crops})[0])


def test_int8_scores_are_near(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    crops = random.integers(0, 256, (64, SIDE, SIDE)).astype(np.uint8)
    network = write_small_bundle(tmp_path) / "model.onnx"
    write_int8(network, crops, tmp_path / "int8.onnx")
    wide, narrow = (scores(path, crops) for path in (network, tmp_path / "int8.onnx"))
    assert 0 < np.abs(wide - narrow).max() < 0.02
    assert np.corrcoef(wide, narrow)[0, 1] > 0.99
    operators = {node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators


def test_the_first_convolutions_are_those_that_see_no_others_result() -> None:
    nodes = [
        helper.make_node("Cast", ["crops"], ["x"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w"], ["a"], "left"),
        helper.make_node("Conv", ["x", "w"], ["b"], "right"),
        helper.make_node("Relu", ["a"], ["c"], "relu"),
        helper.make_node("Conv", ["c", "w"], ["d"], "behind"),
        helper.make_node("Concat", ["b", "d"], ["e"], "both", axis=1),
        helper.make_node("Conv", ["e", "w"], ["f"], "last"),
    ]
    assert first_convolutions(helper.make_graph(nodes, "graph", [], [])) == ["left", "right"]


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


def test_calibration_crops_are_half_of_either_source() -> None:
    bright, dark = (Crop("", jpeg(np.full((24, 24), value, np.uint8)), None, None) for value in (255, 0))
    crops = calibration_crops([bright] * 200, [dark] * 200, SIDE)
    assert crops.shape == (CALIBRATION_CROPS, SIDE, SIDE)
    assert crops.dtype == np.uint8
    assert (crops.mean(axis=(1, 2)) > 128).sum() == CALIBRATION_CROPS // 2
