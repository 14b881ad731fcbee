"""Crops per second of all contestants in one run that takes them in turn, so that a busy moment hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import onnxruntime
import torch
from tqdm import tqdm

from eyestate.execution import cores, open_session
from eyestate.images import Pixels
from eyestate.settings import Device
from tools.benchmarks.contestants import Network, parts
from tools.harness.sessions import openvino_session

BATCHES: Final = (1, 8, 64, 1024)
ONNX_RUNTIME: Final = "ONNX Runtime, fp32"
OPENVINO: Final = "OpenVINO, fp32"
_MATRIX: Final = {"cpu": 1024, "cuda": 8192}
_COPIED: Final = {"cpu": 2**28, "cuda": 2**31}  # bytes; more than any cache holds
_REPEATS: Final = 10

Step = Callable[[], int]  # scores some crops and says how many


@dataclass(frozen=True, slots=True)
class Runner:
    """A contestant on an engine: ``prepare`` makes the step for batches of a size."""

    name: str
    engine: str
    prepare: Callable[[int], Step]


@dataclass(frozen=True, slots=True)
class Speed:
    """Crops per second of one contestant on one engine at one batch size: the median of the rounds, and their range."""

    name: str
    engine: str
    batch: int
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Roof:
    """What this machine reaches at best: FLOP/s in a product of large matrices, bytes/s read and written in a copy."""

    flops: float
    bandwidth: float


def network_runners(networks: Sequence[Network], device: Device) -> Iterator[Runner]:
    """Every network on every engine: on a CPU ONNX Runtime's own kernels and OpenVINO's, else the device's."""
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
    """A scorer on real crops in their order, resizing included; a step takes all of them, batch by batch."""

    def prepare(batch: int) -> Step:
        batches = [parts(crops[start : start + batch]) for start in range(0, len(crops), batch)]

        def step() -> int:
            for some in batches:
                score_parts(some)
            return len(crops)

        return step

    return Runner(name, ONNX_RUNTIME, prepare)


def race(runners: Sequence[Runner], batches: Sequence[int], *, seconds: float, rounds: int) -> list[Speed]:
    """Measure all runners at all batch sizes, warmed up, in rounds that each begin with another one.

    Args:
        seconds: of each measurement, which is one step where that takes longer.
        rounds: measurements of each point.
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
    """Crops scored per second by a step repeated for so long, at least once."""
    count, started = 0, time.perf_counter()
    while count == 0 or time.perf_counter() < started + seconds:
        count += step()
    return count / (time.perf_counter() - started)


def roof(device: Device) -> Roof:
    """Measure what a machine reaches at best, in float32 (on a GPU TF32, as the networks are computed there)."""
    place = "cpu" if device == "cpu" else "cuda"
    torch.set_float32_matmul_precision("high")
    side, size = _MATRIX[place], _COPIED[place]
    matrix, out = torch.randn((side, side), device=place), torch.empty((side, side), device=place)
    numbers, target = torch.zeros(size // 4, device=place), torch.empty(size // 4, device=place)
    multiply = _fastest(lambda: torch.mm(matrix, matrix, out=out), place)
    copy = _fastest(lambda: target.copy_(numbers), place)
    return Roof(2 * side**3 / multiply, 2 * size / copy)


def _fastest(work: Callable[[], object], place: str) -> float:
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        if place == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)
