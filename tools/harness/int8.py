"""A bundle's network in int8: weights and activations quantised by ONNX Runtime, calibrated on crops."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
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

from eyestate.images import Pixels

# The convolutions and what lies between them; preprocessing and softmax stay in float32.
_OPERATORS: Final = ("Conv", "Relu", "Add", "Mul", "Concat", "MaxPool")
# Of four calibrations that were tried (extremes, their moving average, symmetric, percentile) the one whose scores are
# nearest to float32's.
_PERCENTILE: Final = 99.999
_BATCH: Final = 32


def write_int8(network: Path, crops: Pixels, path: Path) -> None:
    """Quantise a network statically, in the QDQ format that both ONNX Runtime and OpenVINO compute in int8.

    Weights have all 8 bits, for processors with VNNI. Without it ONNX Runtime's kernels add products in 16 bits, which
    saturate, and scores come out further from float32's.

    Args:
        network: ONNX, as bundles hold it.
        crops: model inputs to calibrate on, uint8 (N, side, side), of the kind that will be scored.
        path: file to write.
    """
    with tempfile.TemporaryDirectory() as scratch:
        wide, prepared = Path(scratch) / "wide.onnx", Path(scratch) / "prepared.onnx"
        onnx.save(with_float32_weights(onnx.load(network)), wide)
        with _quiet():
            quant_pre_process(wide, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                path,
                _Batches(onnx.load(prepared).graph.input[0].name, crops),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(_OPERATORS),
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": _PERCENTILE},
            )


def with_float32_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Undo the storage in float16: each such weight becomes float32, and the Cast behind it goes."""
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


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime comes without types
    def __init__(self, name: str, crops: Pixels) -> None:
        self._feeds = iter([{name: crops[start : start + _BATCH]} for start in range(0, len(crops), _BATCH)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the quantiser's progress reports off the terminal."""
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
