"""Throughput of all candidates, measured in turns so that interference on the machine affects all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import onnxruntime
import torch
from tqdm import tqdm

from eyestate.arrays import Pixels
from eyestate.execution import cores, open_session
from eyestate.settings import Device
from tools.benchmarks.candidates import Network, group_by_size
from tools.harness.sessions import openvino_session

BATCHES: Final = (1, 8, 64, 1024)
ONNX_RUNTIME: Final = "ONNX Runtime, fp32"
OPENVINO: Final = "OpenVINO, fp32"
_MATRIX_SIDE: Final = {"cpu": 1024, "cuda": 8192}
_COPY_BYTES: Final = {"cpu": 2**28, "cuda": 2**31}  # bytes, more than any cache
_REPEATS: Final = 10

Step = Callable[[], int]  # scores some crops and returns their number


@dataclass(frozen=True, slots=True)
class Runner:
    """A candidate on an engine; ``prepare`` makes the step for a batch size."""

    name: str
    engine: str
    prepare: Callable[[int], Step]


@dataclass(frozen=True, slots=True)
class Speed:
    """Crops per second of one candidate on one engine at one batch size: median and range over the rounds."""

    name: str
    engine: str
    batch: int
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Roofline:
    """Peak performance of this machine: FLOP/s in a large matrix product, bytes/s read and written in a copy."""

    flops: float
    bandwidth: float


def network_runners(networks: Sequence[Network], device: Device) -> Iterator[Runner]:
    """Every network on every engine: ONNX Runtime's own kernels and OpenVINO on a CPU, otherwise the device's."""
    for network in networks:
        if device != "cpu":
            session, found = open_session(network.onnx, device)
            yield _runner(network, f"ONNX Runtime, {found}", session)
            continue
        yield _runner(network, ONNX_RUNTIME, open_session(network.onnx, "cpu")[0])
        if "OpenVINOExecutionProvider" in onnxruntime.get_available_providers():
            yield _runner(network, OPENVINO, openvino_session(network.onnx, "f32", cores()))


def _runner(network: Network, engine: str, session: onnxruntime.InferenceSession) -> Runner:
    def prepare(batch: int) -> Step:
        feed = {session.get_inputs()[0].name: network.example(batch)}

        def step() -> int:
            session.run(None, feed)
            return batch

        return step

    return Runner(network.name, engine, prepare)


def mix_runner(name: str, score_parts: Callable[[Sequence[Pixels]], object], crops: Sequence[Pixels]) -> Runner:
    """A scorer on real crops in their order, including resizing; a step scores all of them, batch by batch."""

    def prepare(batch: int) -> Step:
        batches = [group_by_size(crops[start : start + batch]) for start in range(0, len(crops), batch)]

        def step() -> int:
            for some in batches:
                score_parts(some)
            return len(crops)

        return step

    return Runner(name, ONNX_RUNTIME, prepare)


def measure_speeds(runners: Sequence[Runner], batches: Sequence[int], *, seconds: float, rounds: int) -> list[Speed]:
    """Measure all runners at all batch sizes after a warm-up; every round starts with a different runner.

    Args:
        runners: candidates on engines.
        batches: batch sizes.
        seconds: duration of each measurement, at least one step.
        rounds: measurements per point.
    """
    found: dict[tuple[Runner, int], list[float]] = {}
    with tqdm(total=len(runners) * len(batches) * (rounds + 1), desc="speed", unit="point") as progress:
        for batch in batches:
            steps = {runner: runner.prepare(batch) for runner in runners}
            for step in steps.values():
                step()
                progress.update()
            for turn in range(rounds):
                for number in range(len(runners)):
                    runner = runners[(turn + number) % len(runners)]
                    found.setdefault((runner, batch), []).append(crops_per_second(steps[runner], seconds))
                    progress.update()
    return [
        Speed(runner.name, runner.engine, batch, median(speeds), min(speeds), max(speeds))
        for (runner, batch), speeds in found.items()
    ]


def crops_per_second(step: Step, seconds: float) -> float:
    """Throughput of a step repeated for that long, at least once."""
    count, started = 0, time.perf_counter()
    while count == 0 or time.perf_counter() < started + seconds:
        count += step()
    return count / (time.perf_counter() - started)


def measure_roofline(device: Device) -> Roofline:
    """Measure the machine's peak performance in float32 (TF32 on a GPU, as networks are computed there)."""
    device_type = "cpu" if device == "cpu" else "cuda"
    torch.set_float32_matmul_precision("high")
    side, size = _MATRIX_SIDE[device_type], _COPY_BYTES[device_type]
    matrix, out = torch.randn((side, side), device=device_type), torch.empty((side, side), device=device_type)
    numbers, target = torch.zeros(size // 4, device=device_type), torch.empty(size // 4, device=device_type)
    multiply = _fastest(lambda: torch.mm(matrix, matrix, out=out), device_type)
    copy = _fastest(lambda: target.copy_(numbers), device_type)
    return Roofline(2 * side**3 / multiply, 2 * size / copy)


def _fastest(work: Callable[[], object], device_type: str) -> float:
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        if device_type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)
