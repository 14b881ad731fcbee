"""A bundle's network in PyTorch, in float16, channels last and as a CUDA graph: what the card can do with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch.nn import functional

from eyestate.arrays import Pixels


def crops_per_second(model: bytes, pixels: Pixels, seconds: float) -> float:
    """Throughput of one CUDA graph, with the copies of crops, uint8 (N, side, side), and scores.

    Args:
        model: of a network as ONNX.
        pixels: the batch.
        seconds: to measure.
    """
    network = TorchNetwork(model, "cuda", torch.float16)
    crops = torch.from_numpy(pixels).pin_memory()
    given = crops.cuda()
    warm: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    warm.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(warm):
        for _ in range(3):
            network(given)
    torch.cuda.current_stream().wait_stream(warm)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        scores = network(given)
    count, started = 0, time.perf_counter()
    while count == 0 or time.perf_counter() < started + seconds:
        given.copy_(crops, non_blocking=True)
        graph.replay()
        scores.cpu()
        count += 1
    return count * len(pixels) / (time.perf_counter() - started)


class TorchNetwork:
    """Runs the nodes of an ONNX graph of the kinds that the project's networks have."""

    def __init__(self, model: bytes, place: str, kind: torch.dtype) -> None:
        """Args:
        model: a network as ONNX, uint8 (N, side, side) to float (N,).
        place: ``cpu`` or ``cuda``.
        kind: of what is float in the graph.
        """
        graph = onnx.load_from_string(model).graph
        self._kind = kind
        self._nodes = [(node, {a.name: helper.get_attribute_value(a) for a in node.attribute}) for node in graph.node]
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self._weights = {
            weight.name: self._weight(numpy_helper.to_array(weight), place) for weight in graph.initializer
        }

    def _weight(self, values: np.ndarray[Any, Any], place: str) -> Any:
        if not np.issubdtype(values.dtype, np.floating):
            return values.tolist()  # axes and shapes
        weight = torch.from_numpy(values.copy()).to(place, self._kind)
        return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        """P(open) (N,) of crops, uint8 (N, side, side)."""
        values = {**self._weights, self._input: crops}
        for node, attributes in self._nodes:
            inputs = [values[name] for name in node.input]
            values[node.output[0]] = _OPERATIONS[node.op_type](inputs, attributes, self._kind)
        found: torch.Tensor = values[self._output]
        return found


Operation = Callable[[Sequence[Any], dict[str, Any], Any], Any]


def _convolution(inputs: Sequence[Any], attributes: dict[str, Any], _: object) -> Any:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    assert (top, left) == (bottom, right)
    return functional.conv2d(
        inputs[0].contiguous(memory_format=torch.channels_last),
        inputs[1],
        inputs[2] if len(inputs) == 3 else None,
        stride=attributes.get("strides", 1),
        padding=(top, left),
        groups=attributes.get("group", 1),
    )


def _normalisation(inputs: Sequence[Any], attributes: dict[str, Any], kind: Any) -> Any:
    values, scale = inputs[0].float(), inputs[1]
    axes = tuple(range(attributes["axis"], 0))
    centred = values - values.mean(axes, keepdim=True)
    spread = centred.square().mean(axes, keepdim=True).add(attributes["epsilon"]).sqrt()
    return (centred / spread).to(kind) * scale


def _gemm(inputs: Sequence[Any], attributes: dict[str, Any], _: object) -> Any:
    values, weights, bias = inputs
    return functional.linear(values, weights if attributes.get("transB") else weights.T, bias)


_OPERATIONS: dict[str, Operation] = {
    "Cast": lambda inputs, _, kind: inputs[0].to(kind),
    "Conv": _convolution,
    "LayerNormalization": _normalisation,
    "Gemm": _gemm,
    "Relu": lambda inputs, _, __: inputs[0].relu(),
    "Sigmoid": lambda inputs, _, __: inputs[0].float().sigmoid(),
    "Add": lambda inputs, _, __: inputs[0] + inputs[1],
    "Mul": lambda inputs, _, __: inputs[0] * inputs[1],
    "Div": lambda inputs, _, __: inputs[0] / inputs[1],
    "Concat": lambda inputs, attributes, _: torch.cat(list(inputs), attributes["axis"]),
    "MaxPool": lambda inputs, attributes, _: functional.max_pool2d(
        inputs[0], attributes["kernel_shape"], attributes["strides"]
    ),
    "ReduceMean": lambda inputs, attributes, _: inputs[0].mean(inputs[1], bool(attributes.get("keepdims", 1))),
    "Unsqueeze": lambda inputs, _, __: inputs[0].unsqueeze(inputs[1][0]),
    "Squeeze": lambda inputs, _, __: inputs[0].squeeze(inputs[1][0]),
    "Expand": lambda inputs, _, __: inputs[0].expand([size if size > 1 else -1 for size in inputs[1]]),
}
