"""A network on a GPU: buffers that stay in place, and small crops that are resized there."""

from __future__ import annotations

from typing import Final

import numpy as np
from onnxruntime import InferenceSession, OrtValue

from eyestate.arrays import Pixels, Scores
from eyestate.bundle import Manifest
from eyestate.images import to_inputs

LEAST_RESIZED: Final = 16  # crops; fewer are resized by the CPU before the GPU could be told to


class Resizer:
    """Resizes crops on the GPU, bit for bit as the CPU does, so that small crops travel and large ones are made there.

    Needs the package ``onnx``.
    """

    def __init__(self, session: InferenceSession) -> None:
        """``session`` is one of ``gpu_graph.resizing``."""
        from eyestate.gpu_graph import resize_weights  # noqa: PLC0415  # onnx, of the extra `gpu`

        self._session = session
        self._weights = resize_weights

    def resize(self, crops: Pixels, onto: OrtValue) -> None:
        """Resize crops (N, height, width), at least as wide as high, into a buffer (N, side, side), both uint8."""
        _, height, width = crops.shape
        side = onto.shape()[1]
        binding = self._session.io_binding()
        binding.bind_cpu_input("crops", crops)
        binding.bind_cpu_input("columns", self._weights(width, side))
        binding.bind_cpu_input("rows", self._weights(height, side))
        binding.bind_ortvalue_output("inputs", onto)
        self._session.run_with_iobinding(binding)


class FixedSession:
    """A session for one batch size, whose input and output stay at the same addresses, as a CUDA graph needs.

    ONNX Runtime keeps the graph that it has captured for the thread that ran it, so all calls must come from one.
    """

    def __init__(
        self,
        session: InferenceSession,
        manifest: Manifest,
        size: int,
        resizer: Resizer | None = None,
        place: str = "cuda",
    ) -> None:
        """Args:
        session: of the network.
        manifest: of the network.
        size: the batch size.
        resizer: for smaller crops; without it the CPU resizes them.
        place: of the buffers, as ONNX Runtime names it.
        """
        self._session = session
        self._side = manifest.input.side
        self._resizer = resizer if size >= LEAST_RESIZED else None
        self._input = OrtValue.ortvalue_from_shape_and_type((size, self._side, self._side), np.uint8, place, 0)
        self._output = OrtValue.ortvalue_from_shape_and_type((size,), np.float32, place, 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(manifest.input.name, self._input)
        self._binding.bind_ortvalue_output(manifest.output.name, self._output)

    def __call__(self, crops: Pixels) -> Scores:
        """P(open), float32 (size,), of crops of one size, uint8 (size, height, width)."""
        _, height, width = crops.shape
        if height == width == self._side:
            self._input.update_inplace(np.ascontiguousarray(crops))
        elif self._resizer and width >= height:
            self._resizer.resize(np.ascontiguousarray(crops), self._input)
        else:
            self._input.update_inplace(to_inputs(crops, self._side))
        self._session.run_with_iobinding(self._binding)
        return np.array(self._output.numpy(), np.float32)
