"""A network on a GPU: buffers that stay in place, and small crops that are resized there."""

from __future__ import annotations

import ctypes
import logging
import mmap
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

import numpy as np
import onnxruntime
from onnxruntime import InferenceSession, OrtValue

from eyestate.arrays import Pixels, Scores
from eyestate.bundle import Manifest
from eyestate.images import to_inputs

log = logging.getLogger("eyestate.gpu")

LEAST_RESIZED: Final = 16  # crops; fewer are resized by the CPU before the GPU could be told to
_SMALL: Final = 24  # pixels: width and height of crops as they mostly come


class Turns:
    """Keeps the capture of a CUDA graph apart from all other work on the GPU.

    ONNX Runtime captures in a mode in which CUDA refuses what other threads of the process ask of it meanwhile, memory
    for instance, and the capture fails, too. One thread at a time may capture.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running = 0
        self._captures = False

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Beside other inferences."""
        with self._changed:
            self._changed.wait_for(lambda: not self._captures)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Once the inferences that run are done; others wait."""
        with self._changed:
            self._captures = True
            self._changed.wait_for(lambda: not self._running)
        try:
            yield
        finally:
            with self._changed:
                self._captures = False
                self._changed.notify_all()


TURNS: Final = Turns()


def page_locked(size: int) -> Pixels:
    """Memory from which CUDA copies without a detour, uint8 (size,); where it cannot be locked, it is as any other."""
    memory: Pixels = np.frombuffer(mmap.mmap(-1, size), np.uint8)  # pages of its own
    address = ctypes.c_void_p(memory.ctypes.data)
    try:
        cuda = ctypes.CDLL(f"libcudart.so.{onnxruntime.cuda_version.partition('.')[0]}")
        code = cuda.cudaHostRegister(address, ctypes.c_size_t(size), ctypes.c_uint(0))
    except OSError as error:
        code = str(error)
    if code:
        log.info("copies to the GPU take longer, since memory cannot be locked: %s", code)
    else:
        weakref.finalize(memory, cuda.cudaHostUnregister, address).atexit = False
    return memory


class Resizer:
    """Resizes crops on the GPU, bit for bit as the CPU does, so that small crops travel and large ones are made there.

    Needs the package ``onnx``.
    """

    def __init__(self, session: InferenceSession, place: str = "cuda") -> None:
        """Args:
        session: of ``gpu_graph.resizing``.
        place: of the weights, as ONNX Runtime names it.
        """
        from eyestate.gpu_graph import resize_weights  # noqa: PLC0415  # onnx, of the extra `gpu`

        @lru_cache(maxsize=64)
        def weights(size: int, side: int) -> OrtValue:
            return OrtValue.ortvalue_from_numpy(resize_weights(size, side), place, 0)

        self._session = session
        self._weights = weights

    def resize(self, crops: Pixels, onto: OrtValue) -> None:
        """Resize crops (N, height, width), at least as wide as high, into a buffer (N, side, side), both uint8."""
        _, height, width = crops.shape
        side = onto.shape()[1]
        binding = self._session.io_binding()
        binding.bind_cpu_input("crops", crops)
        binding.bind_ortvalue_input("columns", self._weights(width, side))
        binding.bind_ortvalue_input("rows", self._weights(height, side))
        binding.bind_ortvalue_output("inputs", onto)
        self._session.run_with_iobinding(binding)


class FixedSession:
    """A session for one batch size, whose input and output stay at the same addresses, as a CUDA graph needs.

    ONNX Runtime keeps the graph that it has captured for the thread that ran it, so all calls must come from one. The
    graph is captured, and all else prepared, when this is made.
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
        self._size = size
        self._side = manifest.input.side
        self._resizer = resizer if size >= LEAST_RESIZED else None
        self._input = OrtValue.ortvalue_from_shape_and_type((size, self._side, self._side), np.uint8, place, 0)
        self._output = OrtValue.ortvalue_from_shape_and_type((size,), np.float32, place, 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(manifest.input.name, self._input)
        self._binding.bind_ortvalue_output(manifest.output.name, self._output)
        with TURNS.capture():
            self._host = page_locked(size * self._side**2)
            for side in (self._side, min(_SMALL, self._side)):
                self._run(np.zeros((size, side, side), np.uint8))

    def __call__(self, crops: Pixels) -> Scores:
        """P(open), float32 (n,), of crops of one size, uint8 (n, height, width), no more than the batch size."""
        with TURNS.inference():
            return self._run(crops)

    def _run(self, crops: Pixels) -> Scores:
        n, height, width = crops.shape
        if self._resizer and height <= width and height * width < self._side**2:
            self._resizer.resize(self._sent(crops), self._input)
        else:
            self._input.update_inplace(self._sent(to_inputs(crops, self._side)))
        self._session.run_with_iobinding(self._binding)
        return np.array(self._output.numpy()[:n], np.float32)

    def _sent(self, crops: Pixels) -> Pixels:
        """The crops in the locked memory; what was there before is left in the rest of the batch."""
        n, height, width = crops.shape
        batch = self._host[: self._size * height * width].reshape(self._size, height, width)
        batch[:n] = crops
        return batch
