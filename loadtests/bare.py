"""The bare ONNX Runtime session: what the network costs by itself, the measure of all serving."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from eyestate.bundle import Bundle
from eyestate.execution import open_session
from eyestate.images import Pixels
from eyestate.settings import Device

BATCHES: Final = (8, 16, 32, 64, 128, 256)


class Bare:
    """As many sessions as a service has workers, opened as it opens them."""

    def __init__(self, bundle: Bundle, device: Device, *, sessions: int, threads: int) -> None:
        """Args:
        bundle: the network.
        device: what computes.
        sessions: run at the same time.
        threads: of each of them.
        """
        opened = [open_session(bundle.onnx, device, threads) for _ in range(sessions)]
        self._sessions = [session for session, _ in opened]
        self.device = opened[0][1]
        self._input, self._output = bundle.manifest.input.name, bundle.manifest.output.name
        self._side = bundle.manifest.input.side

    def crops_per_second(self, batch: int, seconds: float) -> float:
        """Crops scored per second by all sessions, in batches of that size."""
        crops = np.random.default_rng(0).integers(0, 256, (batch, self._side, self._side)).astype(np.uint8)
        self._count(0, crops, 0)
        started = time.perf_counter()
        with ThreadPoolExecutor(len(self._sessions)) as threads:
            done = threads.map(lambda number: self._count(number, crops, started + seconds), range(len(self._sessions)))
            batches = sum(done)
        return batches * batch / (time.perf_counter() - started)

    def best_batch(self, seconds: float, batches: Sequence[int] = BATCHES) -> int:
        """The batch size of the highest throughput, each tried for so many seconds."""
        return max(batches, key=lambda batch: self.crops_per_second(batch, seconds))

    def _count(self, number: int, crops: Pixels, deadline: float) -> int:
        """Inferences until the deadline, at least one."""
        count = 0
        while count == 0 or time.perf_counter() < deadline:
            self._sessions[number].run([self._output], {self._input: crops})
            count += 1
        return count
