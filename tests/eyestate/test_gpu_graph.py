from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from eyestate.arrays import Pixels
from eyestate.bundle import load_bundle
from eyestate.execution import resizing_session
from eyestate.gpu_graph import halved, resize_weights
from eyestate.images import decode, to_input, to_inputs
from tests import half
from tests.bundles import brightness_network

TOLERANCE = 0.005  # of a score: float16 against float32


@given(
    height=st.integers(8, 100),
    wider=st.integers(0, 60),
    side=st.sampled_from([16, 32, 48, 96, 160]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_resizing_is_pillows_bit_for_bit(height: int, wider: int, side: int, seed: int) -> None:
    crops = np.random.default_rng(seed).integers(0, 256, (3, height, height + wider), np.uint8)
    weights = {"columns": resize_weights(height + wider, side), "rows": resize_weights(height, side)}
    (resized,) = resizing_session().run(None, {"crops": crops, **weights})
    np.testing.assert_array_equal(resized, to_inputs(crops, side))


@pytest.fixture(scope="module", params=["final_best", "final_best_lite"])
def network(request: pytest.FixtureRequest) -> bytes:
    return load_bundle(request.param).content


class TestHalved:
    def test_all_convolutions_and_what_lies_between_them_are_float16(self, network: bytes) -> None:
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(halved(network)))
        kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        assert len(convolutions) == sum(node.op_type == "Conv" for node in onnx.load_from_string(network).graph.node)
        assert {kinds[node.output[0]] for node in convolutions} == {TensorProto.FLOAT16}
        wide = {node.op_type for node in model.graph.node if kinds.get(node.output[0]) == TensorProto.FLOAT}
        assert wide.isdisjoint({"Conv", "Relu", "MaxPool"})
        assert len(model.SerializeToString()) < 1.1 * len(network), "no weight is there twice"

    def test_scores_are_those_of_float32_within_the_tolerance(self, network: bytes) -> None:
        side = onnx.load_from_string(network).graph.input[0].type.tensor_type.shape.dim[1].dim_value
        random = np.random.default_rng(0)
        noise = random.integers(0, 256, (4, side, side), np.uint8)
        eyes = np.clip(_eye(side).astype(np.int64) + random.integers(0, 90, (8, side, side)), 0, 255).astype(np.uint8)
        crops = np.concatenate([noise, eyes])
        difference = np.abs(half.scores(half.rounded(halved(network)), crops) - half.scores(network, crops))
        assert 0 < difference.max() < TOLERANCE

    def test_a_network_without_convolutions_stays_as_it_is(self) -> None:
        crops = np.random.default_rng(0).integers(0, 256, (5, 16, 16), np.uint8)
        network = brightness_network()
        np.testing.assert_array_equal(half.scores(halved(network), crops), half.scores(network, crops))

    def test_weights_in_float32_are_rounded_once_and_results_of_convolutions_widened_for_what_needs_float32(
        self,
    ) -> None:
        model = _convolution()
        crops = np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8)
        halves = onnx.load_from_string(halved(model))
        weights = {weight.name: weight.data_type for weight in halves.graph.initializer}
        assert weights.keys() == {"one", "weight.half", "axes"}
        assert weights["weight.half"] == TensorProto.FLOAT16
        np.testing.assert_allclose(half.scores(halved(model), crops), half.scores(model, crops), rtol=1e-3)


@pytest.mark.shared
def test_float16_leaves_the_eer_on_real_crops_as_it_is() -> None:
    pytest.importorskip("torch", reason="reading the data sets needs the training environment")
    from training.data.datasets import data_dir, labels_of
    from training.data.labels import read_held_out
    from training.evaluation.eer import equal_error_rate

    bundle = load_bundle("final_best_lite")
    held_out = read_held_out(data_dir() / "eyes-dataset.zip", data_dir() / "held-out-labels.csv")[::4]
    crops = np.stack([to_input(decode(crop.data), bundle.manifest.input.side) for crop in held_out])
    one, other = (half.scores(network, crops) for network in (bundle.content, half.rounded(halved(bundle.content))))
    assert np.abs(one - other).max() < TOLERANCE
    labels = labels_of(held_out)
    assert equal_error_rate(other, labels) == pytest.approx(equal_error_rate(one, labels), abs=5e-4)


def _eye(side: int) -> Pixels:
    return to_input(decode((Path(__file__).parents[2] / "examples" / "open.jpg").read_bytes()), side)


def _convolution() -> bytes:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["crops"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["floats", "one"], ["maps"]),
            helper.make_node("Conv", ["maps", "weight"], ["features"]),
            helper.make_node("Relu", ["features"], ["positive"]),
            helper.make_node("ReduceMean", ["positive", "axes"], ["p_open"], keepdims=0),
        ],
        "convolution",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["batch", 8, 8])],
        [helper.make_tensor_value_info("p_open", TensorProto.FLOAT, ["batch"])],
        [
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
            helper.make_tensor("weight", TensorProto.FLOAT, [1, 1, 3, 3], [0.1] * 9),
            helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    serialized: bytes = model.SerializeToString()
    return serialized
