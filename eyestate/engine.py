"""A network that runs at a few batch sizes only, all of which are compiled when it is opened.

An execution provider does its work anew for each shape that it has not seen: cuDNN searches for the quickest
algorithms, ONNX Runtime plans memory, and OpenVINO prepares its kernels even where the shape before was another. Under
load every batch would have another size. So a batch is cut into declared sizes, and padded where that costs less than
another inference.
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from onnxruntime import InferenceSession

from eyestate.arrays import Pixels, Scores
from eyestate.bundle import Bundle
from eyestate.errors import BundleError
from eyestate.execution import batch_sizes, open_session
from eyestate.settings import Device

_LONGEST_SECONDS: Final = 0.04  # of an inference: the latency that a batch adds to the request behind it
_TRIALS: Final = 5
_TRIAL_SECONDS: Final = 0.1  # after which a size is tried no more


class Engine:
    """Runs a network at declared batch sizes. Safe to call from several threads.

    Attributes:
        device: what computes, with its precision.
        sizes: the batch sizes, ascending: all that a session is ever given.
        seconds_per_crop: of an inference of the largest size.
    """

    def __init__(self, bundle: Bundle, device: Device = "auto", threads: int | None = None) -> None:
        """Open, compile and time one size after the other, up to the last whose inference should take 40 ms at most.

        The time of a size is that of the quickest of five trials, or of as many as fit into 0.1 s.

        Args:
            bundle: of the network.
            device: what is asked for.
            threads: of one inference; as many as there are cores where it is None.

        Raises:
            BundleError: ONNX Runtime cannot load or run it, or its input or output is not what the manifest says.
        """
        self._manifest = bundle.manifest
        self._sessions: dict[int, InferenceSession] = {}
        self.seconds_per_crop = 0.0
        try:
            self._open(bundle, device, threads)
        except BundleError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no other common base class
            raise BundleError(f"ONNX Runtime cannot load {bundle.onnx}: {error}") from None
        self.sizes = tuple(self._sessions)

    def _open(self, bundle: Bundle, device: Device, threads: int | None) -> None:
        session, self.device = open_session(bundle.onnx, device, threads, batch=1, content=bundle.content)
        self._check_contract(bundle.onnx, session)
        available, self._overhead, fixed = batch_sizes(self.device)
        for size in available:
            if size * self.seconds_per_crop > _LONGEST_SECONDS:
                break
            if fixed and size > 1:
                session, _ = open_session(bundle.onnx, device, threads, batch=size, content=bundle.content)
            self._sessions[size] = session
            self.seconds_per_crop = self._measured(size) / size

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
        """The output for a batch of any size, float32 (N,)."""
        if len(batch) in self._sessions:
            return self._infer(batch)
        scores = np.empty(len(batch), np.float32)
        start = 0
        for size in cut(len(batch), self.sizes, self._overhead):
            part = batch[start : start + size]
            scores[start : start + size] = self._infer(_padded(part, size))[: len(part)]
            start += size
        return scores

    def _measured(self, size: int) -> float:
        """The seconds of an inference of that size, after a first one, which compiles it."""
        crops = np.zeros((size, *self._manifest.input.shape[1:]), np.uint8)
        self._infer(crops)
        seconds: list[float] = []
        while len(seconds) < _TRIALS and sum(seconds) < _TRIAL_SECONDS:
            started = time.perf_counter()
            self._infer(crops)
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    def _infer(self, batch: Pixels) -> Scores:
        session = self._sessions[len(batch)]
        binding = session.io_binding()
        binding.bind_cpu_input(self._manifest.input.name, np.ascontiguousarray(batch))
        binding.bind_output(self._manifest.output.name)
        session.run_with_iobinding(binding)
        (scores,) = binding.copy_outputs_to_cpu()
        return np.asarray(scores, np.float32)


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
