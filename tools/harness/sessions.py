"""ONNX Runtime sessions without the service: the baseline for serving overhead, and OpenVINO by precision."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime

from eyestate.arrays import Pixels
from eyestate.bundle import Bundle
from eyestate.execution import open_session
from eyestate.settings import Device

BATCHES: Final = (8, 16, 32, 64, 128, 256)


class BareSessions:
    """As many sessions as a service has workers, opened the way the service opens them."""

    def __init__(self, bundle: Bundle, device: Device, *, sessions: int, threads: int) -> None:
        """Open the sessions.

        Args:
            bundle: the network.
            device: where it runs.
            sessions: number of sessions that run concurrently.
            threads: of each session.
        """
        opened = [open_session(bundle.onnx, device, threads) for _ in range(sessions)]
        self._sessions = [session for session, _ in opened]
        self.device = opened[0][1]
        self._input, self._output = bundle.manifest.input.name, bundle.manifest.output.name
        self._side = bundle.manifest.input.side

    def crops_per_second(self, batch: int, seconds: float) -> float:
        """Combined throughput of all sessions in crops per second, with batches of that size."""
        crops = np.random.default_rng(0).integers(0, 256, (batch, self._side, self._side)).astype(np.uint8)
        self._run_until(0, 0, crops)
        started = time.perf_counter()
        with ThreadPoolExecutor(len(self._sessions)) as threads:
            batches = sum(
                threads.map(
                    lambda number: self._run_until(started + seconds, number, crops), range(len(self._sessions))
                )
            )
        return batches * batch / (time.perf_counter() - started)

    def best_batch(self, seconds: float, batches: Sequence[int] = BATCHES) -> int:
        """The batch size with the highest throughput, each measured for that many seconds."""
        return max(batches, key=lambda batch: self.crops_per_second(batch, seconds))

    def _run_until(self, deadline: float, number: int, crops: Pixels) -> int:
        """Run one session until the deadline, at least once; return the number of inferences."""
        count = 0
        while count == 0 or time.perf_counter() < deadline:
            self._sessions[number].run([self._output], {self._input: crops})
            count += 1
        return count


def openvino_session(onnx: Path, precision: str, threads: int) -> onnxruntime.InferenceSession:
    """A session of the OpenVINO execution provider with a fixed precision, ``f32`` or ``bf16``, on any processor."""
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        onnx,
        options,
        providers=["OpenVINOExecutionProvider"],
        provider_options=[{"device_type": "CPU", "load_config": json.dumps({"CPU": hints})}],
    )
