from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from eyestate.arrays import Pixels
from tools.benchmarks.candidates import OwnNetwork
from tools.benchmarks.speed import (
    ONNX_RUNTIME,
    OPENVINO,
    Runner,
    measure_roofline,
    measure_speeds,
    mix_runner,
    network_runners,
)


def test_runners_take_turns() -> None:
    calls: list[str] = []

    def runner(name: str) -> Runner:
        def prepare(batch: int) -> Callable[[], int]:
            def step() -> int:
                calls.append(f"{name}{batch}")
                return batch

            return step

        return Runner(name, "none", prepare)

    speeds = measure_speeds([runner("a"), runner("b")], [1, 8], seconds=0, rounds=3)
    assert " ".join(calls) == "a1 b1 a1 b1 b1 a1 a1 b1 a8 b8 a8 b8 b8 a8 a8 b8"
    assert [(speed.name, speed.batch) for speed in speeds] == [("a", 1), ("b", 1), ("a", 8), ("b", 8)]
    assert all(0 < speed.low <= speed.median <= speed.high for speed in speeds)


def test_no_runners() -> None:
    assert measure_speeds([], [1], seconds=0, rounds=1) == []


def test_networks_run_on_every_engine(bundles: Path) -> None:
    network = OwnNetwork("lite", bundles / "final_best_lite" / "model.onnx", "Apache-2.0", side=32)
    runners = list(network_runners([network], "cpu"))
    there = "OpenVINOExecutionProvider" in onnxruntime.get_available_providers()
    assert [runner.engine for runner in runners] == [ONNX_RUNTIME, *([OPENVINO] if there else [])]
    assert [runner.prepare(3)() for runner in runners] == [3] * len(runners)


def test_fallback_device_is_named(bundles: Path) -> None:
    """Without CUDA the session falls back to the CPU, and the engine's name says so."""
    network = OwnNetwork("lite", bundles / "final_best_lite" / "model.onnx", "Apache-2.0", side=32)
    (runner,) = network_runners([network], "cuda")
    available = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    assert available or runner.engine == "ONNX Runtime, cpu-fp32"


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_mix_is_scored_completely(batch: int) -> None:
    scored: list[Pixels] = []
    crops = [np.full((8 + number % 2, 8), number, np.uint8) for number in range(10)]
    runner = mix_runner(
        "mix", lambda group_by_size: scored.extend(crop for part in group_by_size for crop in part), crops
    )
    assert runner.prepare(batch)() == 10
    assert [int(crop[0, 0]) for crop in scored] == list(range(10))


def test_roofline_is_plausible() -> None:
    found = measure_roofline("cpu")
    assert 1e9 < found.flops < 1e14
    assert 1e8 < found.bandwidth < 1e13
