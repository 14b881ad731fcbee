"""Static int8 quantisation of a bundle's network with ONNX Runtime, and the crops to calibrate it on."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from eyestate.arrays import Pixels
from eyestate.images import decode, to_input
from training.data.datasets import Crop

CALIBRATION_CROPS: Final = 256
# Convolutions and the layers between them; standardisation, the first convolutions and the last layer stay in float32.
_OPERATORS: Final = ("Conv", "Relu", "Add", "Mul", "Concat", "MaxPool")
# Min-max, entropy, moving-average, symmetric and percentile calibration were tried on final_best_lite, with and without
# the first and the last convolution: this one's scores are closest to float32's.
_PERCENTILE: Final = 99.99
_BATCH: Final = 32


def write_int8(network: Path, crops: Pixels, path: Path) -> None:
    """Quantise a network statically to the QDQ format, which both ONNX Runtime and OpenVINO execute in int8.

    Weights use the full 8 bits, which suits processors with VNNI. Without VNNI, ONNX Runtime's kernels accumulate
    products in 16 bits, which saturates and moves scores further from float32's.

    Args:
        network: ONNX file of a bundle.
        crops: calibration inputs, uint8 (N, side, side), from the distribution that will be scored.
        path: output file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        wide, prepared = Path(scratch) / "wide.onnx", Path(scratch) / "prepared.onnx"
        onnx.save(with_float32_weights(onnx.load(network)), wide)
        with _quiet():
            quant_pre_process(wide, prepared, skip_symbolic_shape=True)
            model = onnx.load(prepared)
            for place, node in enumerate(model.graph.node):
                node.name = f"{place}"  # the quantiser tells nodes apart by their names
            onnx.save(model, prepared)
            quantize_static(
                prepared,
                path,
                _Batches(model.graph.input[0].name, crops),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(_OPERATORS),
                nodes_to_exclude=first_convolutions(model.graph),
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": _PERCENTILE},
            )


def with_float32_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert weights stored in float16 to float32 and remove the Cast nodes that followed them."""
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer if weight.data_type == TensorProto.FLOAT16}
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in weights:
            weight = weights[node.input[0]]
            wide = numpy_helper.to_array(weight).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(wide, node.output[0]))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def first_convolutions(graph: onnx.GraphProto) -> list[str]:
    """The names of the convolutions that see no other's result.

    They take one channel, so int8 hardly makes them quicker, while their rounding goes through all that follows.
    """
    first: list[str] = []
    behind: set[str] = set()
    for node in graph.node:
        if behind.intersection(node.input):
            behind.update(node.output)
        elif node.op_type == "Conv":
            first.append(node.name)
            behind.update(node.output)
    return first


def calibration_crops(labelled: Sequence[Crop], unlabelled: Sequence[Crop], side: int) -> Pixels:
    """A random sample, half from each source, as uint8 (CALIBRATION_CROPS, side, side).

    Both sources must be disjoint from the evaluation sets.
    """
    random = np.random.default_rng(0)
    halves = [random.choice(len(kind), CALIBRATION_CROPS // 2, replace=False) for kind in (labelled, unlabelled)]
    chosen = [labelled[i] for i in halves[0]] + [unlabelled[i] for i in halves[1]]
    return model_inputs([chosen[i] for i in random.permutation(len(chosen))], side)


def model_inputs(crops: Sequence[Crop], side: int) -> Pixels:
    """Crops decoded and resized to model inputs, uint8 (N, side, side)."""
    return np.stack([to_input(decode(crop.data), side) for crop in crops])


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime comes without types
    def __init__(self, name: str, crops: Pixels) -> None:
        self._feeds = iter([{name: crops[start : start + _BATCH]} for start in range(0, len(crops), _BATCH)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the quantiser's progress output."""
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
