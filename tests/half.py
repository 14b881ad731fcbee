"""Computing in float16 where ONNX Runtime's CPU kernels would not."""

from __future__ import annotations

import onnx
import onnxruntime
from onnx import TensorProto, helper, shape_inference

from eyestate.arrays import Pixels, Scores


def rounded(model: bytes) -> bytes:
    """A network that computes in float32 and rounds each value to float16 that the given one has in float16.

    ONNX Runtime has no float16 convolution for most CPUs, computes in float32, and does not round in between.
    """
    network = onnx.load_from_string(model)
    kinds = {
        value.name: value.type.tensor_type.elem_type for value in shape_inference.infer_shapes(network).graph.value_info
    }
    kinds |= {weight.name: weight.data_type for weight in network.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in network.graph.node:
        if node.op_type == "Cast" or kinds.get(node.output[0]) != TensorProto.FLOAT16:
            nodes.append(node)
            continue
        for place, name in enumerate(node.input):
            wide = f"{node.output[0]}.{place}"
            nodes.append(helper.make_node("Cast", [name], [wide], to=TensorProto.FLOAT))
            node.input[place] = wide
        half = node.output[0]
        node.output[0] = f"{half}.wide"
        nodes += [node, helper.make_node("Cast", [node.output[0]], [half], to=TensorProto.FLOAT16)]
    del network.graph.node[:]
    network.graph.node.extend(nodes)
    del network.graph.value_info[:]
    serialized: bytes = network.SerializeToString()
    return serialized


def scores(model: bytes, crops: Pixels) -> Scores:
    """What ONNX Runtime's CPU kernels say, float32 (N,), of crops, uint8 (N, side, side); no cast is left out."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: crops})
    found: Scores = output
    return found
