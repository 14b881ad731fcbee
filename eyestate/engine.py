"""A network that runs at a few batch sizes only, all of which are compiled when it is opened.

An execution provider does its work anew for each shape that it has not seen: cuDNN searches for the quickest
algorithms, ONNX Runtime plans memory, and OpenVINO prepares its kernels even where the shape before was another. Under
load every batch would have another size. So a batch is cut into declared sizes, and padded where that costs less than
another inference.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, cast

import numpy as np

from eyestate import gpu_errors
from eyestate.arrays import Pixels, Scores
from eyestate.bundle import Bundle, Manifest
from eyestate.errors import BundleError, DeviceError
from eyestate.execution import (
    FORMS,
    PLAIN,
    Form,
    batch_sizes,
    is_available,
    on_gpu,
    open_session,
    resizing_session,
)
from eyestate.extras import extra
from eyestate.gpu import FixedSession, Resizer
from eyestate.gpu_errors import Kind
from eyestate.settings import Device

with extra("cpu"):
    from onnxruntime import InferenceSession

log = logging.getLogger("eyestate.engine")

_LONGEST_SECONDS: Final = 0.04  # of an inference: the latency that a batch adds to the request behind it
_TRIALS: Final = 5
_TRIAL_SECONDS: Final = 0.1  # after which a size is tried no more
_MARGIN: Final = 1.1  # how much quicker float32 must be than bfloat16, so that noise does not decide

_OPENING: Final = threading.Lock()  # one network at a time takes memory of a GPU and captures CUDA graphs

Infer = Callable[[Pixels], Scores]  # of one batch size


class Engine:
    """Runs a network at declared batch sizes. Safe to call from several threads.

    Attributes:
        device: what computes, with its precision.
        sizes: the batch sizes, ascending: all that a session is ever given.
        float32_sizes: those of them that ONNX Runtime's own kernels compute, in float32, though OpenVINO's are there.
        seconds_per_crop: of an inference of the largest size.
        seconds_alone: of an inference of one crop.
        resizes: whether it takes crops of other sizes than the network's too.
    """

    def __init__(self, bundle: Bundle, device: Device = "auto", threads: int | None = None) -> None:
        """Open, compile and time one size after the other, up to the last whose inference should take 40 ms at most.

        The time of a size is that of the quickest of five trials, or of as many as fit into 0.1 s. Where ``auto`` is
        bfloat16, small sizes are left to ONNX Runtime's own kernels as long as these are clearly quicker. What does not
        work on a GPU is left out with a warning: the CUDA graph, float16, large sizes for which its memory does not
        suffice, and in the end the GPU.

        Args:
            bundle: of the network.
            device: what is asked for.
            threads: of one inference; as many as there are cores where it is None.

        Raises:
            BundleError: ONNX Runtime cannot load or run it, or its input or output is not what the manifest says.
        """
        self._manifest = bundle.manifest
        # CUDA graphs belong to the thread that they were captured in.
        self._thread = (
            ThreadPoolExecutor(1, "gpu") if device in ("auto", "cuda", "tensorrt") and is_available("cuda") else None
        )
        try:
            if self._thread is None:
                self._open(bundle, device, threads, PLAIN)
            else:
                with _OPENING:
                    self._thread.submit(self._open_best, bundle, device, threads).result()
        except BundleError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no other common base class
            raise BundleError(f"ONNX Runtime cannot load {bundle.onnx}: {error}") from None
        self.resizes = on_gpu(self.device)
        if self._thread and not self.resizes:
            self._thread.shutdown()
            self._thread = None

    def _open_best(self, bundle: Bundle, device: Device, threads: int | None) -> None:
        """Open in the first form that works on the device that there is, on the CPU if none does."""
        found = open_session(bundle.onnx, device, threads, batch=1, content=bundle.content)[1]
        kind = cast("Device", found.partition("-")[0])
        attempts = [(kind, form) for form in (FORMS if kind == "cuda" else (PLAIN,))]
        if on_gpu(kind):
            attempts.append(("cpu", PLAIN))
        while attempts:
            where, form = attempts.pop(0)
            try:
                self._open(bundle, where, threads, form)
                return
            except Exception as error:
                if not attempts or isinstance(error, BundleError):
                    raise
                fault = gpu_errors.fault(error)
                attempts = attempts[-1:] if fault else attempts
                how = f"{where}, float16 {form.half}, CUDA graph {form.graph}"
                why = fault.advice if fault else str(error)[-300:]
                log.warning("%s cannot run with %s: %s; falling back", bundle.manifest.name, how, why)

    def _open(self, bundle: Bundle, device: Device, threads: int | None, form: Form) -> None:
        content = _halved(bundle.content) if form.half else bundle.content
        session, self.device = open_session(bundle.onnx, device, threads, batch=1, content=content, form=form)
        self._check_contract(bundle.onnx, session)
        available, self._overhead, fixed, between = batch_sizes(self.device)
        resizer = _resizer() if on_gpu(self.device) else None
        kernels = self._own_kernels(bundle, threads) if device == "auto" else None
        self._infer: dict[int, Infer] = {}
        self.float32_sizes: tuple[int, ...] = ()
        self.seconds_per_crop = 0.0
        for size in available:
            if size * self.seconds_per_crop > _LONGEST_SECONDS:
                break
            try:
                if fixed and size > 1:
                    session, found = open_session(bundle.onnx, device, threads, batch=size, content=content, form=form)
                    if found != self.device:
                        log.warning("batches are of %d crops at most, since %s fails beyond", max(self._infer), device)
                        break
                self._infer[size] = self._runner(session, size, resizer)
                self.seconds_per_crop = self._seconds(self._infer[size], size) / size
            except Exception as error:
                fault = gpu_errors.fault(error)
                if size == 1 or fault is None or fault.kind is not Kind.MEMORY:
                    raise
                self._infer.pop(size, None)
                log.warning("batches are of %d crops at most: %s", max(self._infer), fault.advice)
                break
            if kernels and not self._prefer(kernels, size):
                kernels = None  # the larger the batch, the more bfloat16 gains
            if size == 1:
                self.seconds_alone = self.seconds_per_crop
        for size in between:
            if size < max(self._infer):
                self._infer[size] = self._runner(session, size, resizer)
                self._infer[size](np.zeros((size, *self._manifest.input.shape[1:]), np.uint8))
        self.sizes = tuple(sorted(self._infer))

    def _own_kernels(self, bundle: Bundle, threads: int | None) -> Infer | None:
        """ONNX Runtime's own kernels, in float32, where OpenVINO computes in bfloat16."""
        if self.device != "openvino-bf16":
            return None
        session, _ = open_session(bundle.onnx, "cpu", threads, content=bundle.content)
        return partial(_infer, session, self._manifest)

    def _prefer(self, other: Infer, size: int) -> bool:
        """Have ``other`` compute a size if it is clearly quicker, now and when both are tried again."""
        before = self._infer[size]
        if self._seconds(other, size) * _MARGIN >= self.seconds_per_crop * size:
            return False
        seconds = self._seconds(other, size)
        if seconds * _MARGIN >= self._seconds(before, size):
            return False
        self._infer[size] = other
        self.float32_sizes += (size,)
        self.seconds_per_crop = seconds / size
        return True

    def _runner(self, session: InferenceSession, size: int, resizer: Resizer | None) -> Infer:
        if on_gpu(self.device):
            return FixedSession(session, self._manifest, size, resizer)
        return partial(_infer, session, self._manifest)

    def _check_contract(self, onnx: Path, session: InferenceSession) -> None:
        nodes = (*session.get_inputs(), *session.get_outputs())
        found = [(node.name, node.type, node.shape[1:]) for node in nodes]
        side = self._manifest.input.side
        declared = [
            (self._manifest.input.name, "tensor(uint8)", [side, side]),
            (self._manifest.output.name, "tensor(float)", []),
        ]
        if found != declared:
            raise BundleError(f"{onnx} has {found}, its manifest declares {declared}")

    def run(self, batch: Pixels) -> Scores:
        """The output for a batch of any size, float32 (N,).

        Args:
            batch: crops of the network's size, uint8 (N, side, side), or of one other size if it resizes.

        Raises:
            DeviceError: the GPU has failed.
        """
        if self._thread:
            return self._thread.submit(self._run_on_gpu, batch).result()
        if len(batch) in self._infer:
            return self._infer[len(batch)](batch)
        scores = np.empty(len(batch), np.float32)
        start = 0
        for size in cut(len(batch), self.sizes, self._overhead):
            part = batch[start : start + size]
            scores[start : start + size] = self._infer[size](_padded(part, size))[: len(part)]
            start += size
        return scores

    def _run_on_gpu(self, batch: Pixels) -> Scores:
        """As ``run``; a size for which the memory does not suffice any more is left out from then on."""
        scores = np.empty(len(batch), np.float32)
        start = 0
        while start < len(batch):
            size = cut(len(batch) - start, self.sizes, self._overhead)[0]
            part = batch[start : start + size]
            try:
                scores[start : start + size] = self._infer[size](part)
            except Exception as error:
                self._leave_out(size, error)
            else:
                start += size
        return scores

    def _leave_out(self, size: int, error: Exception) -> None:
        """Do without the batch sizes from this one on, if that may help.

        Raises:
            DeviceError: the GPU has failed, or has no room even for the smallest size.
            Exception: ``error``, if the GPU is not at fault.
        """
        fault = gpu_errors.fault(error)
        if fault is None:
            raise error
        smaller = tuple(each for each in self.sizes if each < size)
        if fault.kind is not Kind.MEMORY or not smaller:
            raise DeviceError(fault.advice) from None
        log.warning("batches are of %d crops at most from now on: %s", smaller[-1], fault.advice)
        self._infer = {each: self._infer[each] for each in smaller}  # which frees the memory of the others
        self.sizes = smaller

    def _seconds(self, infer: Infer, size: int) -> float:
        """Of an inference of that size, after a first one, which compiles it."""
        crops = np.zeros((size, *self._manifest.input.shape[1:]), np.uint8)
        infer(crops)
        seconds: list[float] = []
        while len(seconds) < _TRIALS and sum(seconds) < _TRIAL_SECONDS:
            started = time.perf_counter()
            infer(crops)
            seconds.append(time.perf_counter() - started)
        return min(seconds)


def _infer(session: InferenceSession, manifest: Manifest, batch: Pixels) -> Scores:
    binding = session.io_binding()
    binding.bind_cpu_input(manifest.input.name, np.ascontiguousarray(batch))
    binding.bind_output(manifest.output.name)
    session.run_with_iobinding(binding)
    (scores,) = binding.copy_outputs_to_cpu()
    return np.asarray(scores, np.float32)


def _halved(content: bytes) -> bytes:
    """The network with its convolutions in float16.

    Raises:
        ImportError: there is no package ``onnx``.
    """
    from eyestate.gpu_graph import halved  # noqa: PLC0415  # onnx, of the extra `gpu`

    return halved(content)


def _resizer() -> Resizer | None:
    """What resizes crops on the GPU; None where that does not work, and the CPU does it."""
    try:
        return Resizer(resizing_session())
    except Exception as error:
        log.warning("crops are resized by the CPU: %s", str(error)[-300:])
        return None


def cut(crops: int, sizes: tuple[int, ...], overhead: float) -> tuple[int, ...]:
    """The batch sizes that compute so many crops at the least cost, descending; the last may have room left.

    Args:
        crops: how many there are.
        sizes: to choose from, ascending.
        overhead: of an inference, in crops that could be computed in its time.
    """
    full, rest = divmod(crops, sizes[-1])
    return (sizes[-1],) * full + _cuts(sizes, overhead)[rest]


@lru_cache
def _cuts(sizes: tuple[int, ...], overhead: float) -> list[tuple[int, ...]]:
    """The cheapest cut of each number of crops below the largest size."""
    costs = [0.0]
    cuts: list[tuple[int, ...]] = [()]
    for crops in range(1, sizes[-1]):
        cost, less = min((overhead + size + costs[max(0, crops - size)], -size) for size in sizes)
        costs.append(cost)
        cuts.append(tuple(sorted((-less, *cuts[max(0, crops + less)]), reverse=True)))
    return cuts


def _padded(crops: Pixels, size: int) -> Pixels:
    if len(crops) == size:
        return crops
    batch = np.zeros((size, *crops.shape[1:]), np.uint8)
    batch[: len(crops)] = crops
    return batch
