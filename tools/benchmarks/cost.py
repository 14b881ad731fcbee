"""Cost of a network by itself: file size, parameters, arithmetic, memory traffic, peak memory."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from onnx import TensorProto, shape_inference

from tools.harness.servers import PROJECT

MIB: Final = 2**20
_WEIGHTS: Final = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT32})
_LAYERS: Final = frozenset({"Conv", "Gemm", "MatMul"})
_BYTES: Final = 4  # of a float32


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one crop.

    Attributes:
        file: bytes of the ONNX file.
        parameters: number of weights.
        flop: operations in convolutions and matrix products, a multiply-add counting as two; others are negligible.
        traffic: bytes in float32 that these layers read and write per crop.
        weights: bytes in float32 of their weights, read once per batch. With ``traffic``: the memory traffic if nothing
            stays in a cache between two layers.
    """

    file: int
    parameters: int
    flop: int
    traffic: int
    weights: int

    def bytes_per_crop(self, batch: int) -> float:
        """Memory traffic per crop in batches of that size."""
        return self.traffic + self.weights / batch


def cost(network: Path) -> Cost:
    """Analyse an ONNX file whose first input has the batch as its first dimension.

    Raises:
        ValueError: the shapes of a layer cannot be inferred.
    """
    model = onnx.load(network)
    graph = model.graph
    for value in (graph.input[0], *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes.setdefault(value.name, tuple(dim.dim_value for dim in dims))
    flop = traffic = weights = 0
    for node in graph.node:
        if node.op_type not in _LAYERS:
            continue
        if missing := [name for name in (*node.input[:2], node.output[0]) if name not in shapes]:
            raise ValueError(f"{network.name}: no shape of {missing[0]}, around {node.op_type} {node.name}")
        taken, weight, made = (shapes[name] for name in (*node.input[:2], node.output[0]))
        flop += 2 * math.prod(made) * _summed(node, weight)
        traffic += _BYTES * (math.prod(taken) + math.prod(made))
        weights += _BYTES * math.prod(weight)
    parameters = sum(math.prod(w.dims) for w in graph.initializer if w.data_type in _WEIGHTS)
    return Cost(network.stat().st_size, parameters, flop, traffic, weights)


def _summed(node: onnx.NodeProto, weight: tuple[int, ...]) -> int:
    """How many products are summed for one output of the layer."""
    if node.op_type == "Conv":  # weight: (outputs, inputs of the group, height, width)
        return math.prod(weight[1:])
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    return weight[-1] if transposed else weight[-2]


def peak_memory(networks: Sequence[Path], batch: int) -> float:
    """Peak memory in MiB of a process that loads the networks and scores a batch with each.

    Without networks: the baseline of Python and ONNX Runtime.

    Raises:
        subprocess.CalledProcessError: the process failed.
    """
    command = [
        sys.executable,
        "-m",
        "tools.benchmarks.memory",
        str(batch),
        *(str(network.resolve()) for network in networks),
    ]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)  # noqa: S603
    return float(done.stdout) / MIB
