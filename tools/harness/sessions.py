"""Models without the service: the baseline for serving overhead, and OpenVINO by precision."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import onnxruntime

from eyestate.arrays import Pixels
from eyestate.bundle import Bundle, CascadeBundle
from eyestate.scorer import open_scorer
from eyestate.settings import Device
from tools.harness import crops

BATCHES: Final = (8, 16, 32, 64, 128, 256)


class BareScorers:
    """As many scorers as a service has workers, opened the way the service opens them.

    They are given crops of their own input's size, so that nothing but the networks is measured.
    """

    def __init__(self, bundle: Bundle | CascadeBundle, device: Device, *, scorers: int, threads: int) -> None:
        """Open the scorers.

        Args:
            bundle: the model.
            device: where it runs.
            scorers: how many score at a time.
            threads: of each of them.
        """
        self._scorers = [open_scorer(bundle, device, threads) for _ in range(scorers)]
        self.device = self._scorers[0].device

    def crops_per_second(self, batch: int, seconds: float) -> float:
        """Combined throughput in crops per second, with batches of that size."""
        inputs = crops.noisy_eyes(batch, self._scorers[0].side)
        self._run_until(0, 0, inputs)
        started = time.perf_counter()
        with ThreadPoolExecutor(len(self._scorers)) as threads:
            batches = sum(
                threads.map(
                    lambda number: self._run_until(started + seconds, number, inputs), range(len(self._scorers))
                )
            )
        return batches * batch / (time.perf_counter() - started)

    def best_batch(self, seconds: float, batches: Sequence[int] = BATCHES) -> int:
        """The batch size with the highest throughput, each measured for that many seconds."""
        return max(batches, key=lambda batch: self.crops_per_second(batch, seconds))

    def _run_until(self, deadline: float, number: int, inputs: Pixels) -> int:
        """Score until the deadline, at least once; return the number of batches."""
        count = 0
        while count == 0 or time.perf_counter() < deadline:
            self._scorers[number].run(inputs)
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
