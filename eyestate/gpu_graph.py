"""The graphs that run on a GPU: a network whose convolutions compute in float16, and resizing as Pillow does it.

Both are made when a network is opened, since a bundle holds one graph for all devices. They need the package ``onnx``,
which comes with the extra ``gpu``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_HALF: Final = "Conv"
# What may follow a convolution in float16: its result is no less exact than the convolution's.
_FOLLOWING: Final = frozenset({"Relu", "MaxPool", "Concat", "Add", "Mul"})


def halved(model: bytes) -> bytes:
    """The network with its convolutions, and what lies between them, in float16; input and output stay as they are.

    Sums over many values (the mean of a feature map, the last layer, the normalisation of a crop) stay in float32, as
    do the sums within a convolution on tensor cores.

    Args:
        model: a network as ONNX, in float32; weights stored in float16 are taken as they are.
    """
    half: bytes = _Halving(onnx.load_from_string(model)).run().SerializeToString()
    return half


class _Halving:
    """Goes through the nodes of a graph in their order, which is one in which they can be computed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._graph = model.graph
        self._weights = {weight.name: weight for weight in self._graph.initializer}
        self._stored: dict[str, str] = {}  # weights stored in float16, by the name of the float32 made of them
        self._half: set[str] = set()  # values that are now float16
        self._casts: set[str] = set()  # names of the values that a cast gives
        self._nodes: list[onnx.NodeProto] = []

    def run(self) -> onnx.ModelProto:
        for node in self._graph.node:
            if node.op_type == "Cast" and node.input[0] in self._weights:
                self._stored[node.output[0]] = node.input[0]
            if node.op_type == _HALF or (node.op_type in _FOLLOWING and self._half.intersection(node.input)):
                node.input[:] = [self._to_half(name) for name in node.input]
                self._half.update(node.output)
            else:
                node.input[:] = [self._to_float(name) for name in node.input]
            self._nodes.append(node)
        for output in self._graph.output:
            if output.name in self._half:
                raise ValueError(f"the output {output.name} is that of a convolution")
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        del self._graph.value_info[:]  # which has the types as they were
        self._leave_out_unused()
        onnx.checker.check_model(self._model, full_check=True)
        return self._model

    def _to_half(self, name: str) -> str:
        if not name or name in self._half:
            return name
        if name in self._stored:
            return self._stored[name]
        half = f"{name}.half"
        if name in self._weights:
            if half not in self._weights:
                values = numpy_helper.to_array(self._weights[name]).astype(np.float16)
                self._weights[half] = numpy_helper.from_array(values, half)
                self._graph.initializer.append(self._weights[half])
            return half
        return self._cast(name, half, TensorProto.FLOAT16)

    def _to_float(self, name: str) -> str:
        return self._cast(name, f"{name}.float", TensorProto.FLOAT) if name in self._half else name

    def _cast(self, name: str, to: str, kind: TensorProto.DataType) -> str:
        if to not in self._casts:
            self._casts.add(to)
            self._nodes.append(helper.make_node("Cast", [name], [to], to=kind))
        return to

    def _leave_out_unused(self) -> None:
        """Weights in float32 that nothing uses any more, and the casts that made them."""
        used = {name for node in self._nodes for name in node.input}
        nodes = [node for node in self._nodes if node.output[0] not in self._stored or node.output[0] in used]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        weights = [weight for weight in self._graph.initializer if weight.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(weights)


def resizing() -> bytes:
    """A graph that resizes crops as Pillow does, bit for bit.

    Pillow resizes along one axis and then along the other, each time in whole numbers: weights are multiples of 2⁻²²,
    and sums are rounded to whole grey levels. All of these are exact in float64.

    Its inputs are the crops, uint8 (batch, height, width), at least as wide as high, and the weights of both passes,
    float64 (width, side) and (height, side), from ``resize_weights``; its output is uint8 (batch, side, side).
    """

    def rounded(value: str, to: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Add", [value, "half"], [f"{value}.shifted"]),
            helper.make_node("Floor", [f"{value}.shifted"], [to]),
        ]

    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["crops"], ["exact"], to=TensorProto.DOUBLE),
            helper.make_node("MatMul", ["exact", "columns"], ["wide"]),
            *rounded("wide", "levels"),
            helper.make_node("Transpose", ["levels"], ["turned"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["turned", "rows"], ["high"]),
            *rounded("high", "resized"),
            helper.make_node("Transpose", ["resized"], ["upright"], perm=[0, 2, 1]),
            helper.make_node("Cast", ["upright"], ["inputs"], to=TensorProto.UINT8),
        ],
        "resizing",
        [
            helper.make_tensor_value_info("crops", TensorProto.UINT8, ["batch", "height", "width"]),
            helper.make_tensor_value_info("columns", TensorProto.DOUBLE, ["width", "side"]),
            helper.make_tensor_value_info("rows", TensorProto.DOUBLE, ["height", "side"]),
        ],
        [helper.make_tensor_value_info("inputs", TensorProto.UINT8, ["batch", "side", "side"])],
        [helper.make_tensor("half", TensorProto.DOUBLE, [], [0.5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    serialized: bytes = model.SerializeToString()
    return serialized


@lru_cache(maxsize=256)
def resize_weights(size: int, side: int) -> npt.NDArray[np.float64]:
    """What each of ``size`` pixels contributes to each of ``side``, float64 (size, side), in multiples of 2⁻²².

    Pillow's ``BILINEAR``: a triangle as wide as two pixels of whichever is coarser, cut off at the edges.
    """
    scale = size / side
    centres = (np.arange(side) + 0.5) * scale
    distances = np.abs(np.arange(size)[:, np.newaxis] + 0.5 - centres) / max(scale, 1.0)
    weights = np.maximum(1 - distances, 0)
    whole: npt.NDArray[np.float64] = np.floor(weights / weights.sum(axis=0) * 2**22 + 0.5)
    return whole / 2**22
