"""From the capacity of one core to machines and cost: plain arithmetic on measurements and stated assumptions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from loadtests.capacity.measure import Curve, Point

DAY_SECONDS: Final = 86_400
VOLUMES: Final = (1_000_000, 100_000_000, 10_000_000_000)  # crops per day
FEWEST_PODS: Final = 2  # so that one may fail


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Values for readers to replace with their own; none of them is measured."""

    peak: float = 3.0  # peak rate over daily mean
    load: float = 0.7  # at the peak, as a share of the knee
    machine_cores: int = 32
    core_hour: float = 0.04  # price, an example
    gpu_crops_per_second: float = 10_000.0  # an example; `python -m loadtests.devices` measures yours
    gpu_hour: float = 2.0  # price, an example


@dataclass(frozen=True, slots=True)
class Size:
    """Resources for a number of crops per day. Crops are per second, traffic is at the peak, in Mbit/s."""

    crops_a_day: int
    mean: float
    peak: float
    pods: int  # of one core
    machines: int
    memory_gib: float
    mbit_in: float
    mbit_out: float
    core_hours_fixed: float  # per day, with a constant number of pods
    core_hours_scaled: float  # per day, with as many pods as the current load needs
    cost_fixed: float
    cost_scaled: float


@dataclass(frozen=True, slots=True)
class GpuSize:
    """The same with GPUs for inference and cores for receiving, decoding and responding."""

    crops_a_day: int
    gpus: int
    cores: int
    cost: float


def pod_capacity(curve: Curve, knee: Point, assumed: Assumptions) -> float:
    """Crops per second that a pod is given at the peak."""
    return knee.offered * curve.crops * assumed.load


def size(curve: Curve, knee: Point, crops_a_day: int, assumed: Assumptions) -> Size:
    """Resources for a number of crops per day on pods with one core."""
    mean = crops_a_day / DAY_SECONDS
    peak = mean * assumed.peak
    pod = pod_capacity(curve, knee, assumed)
    pods = max(FEWEST_PODS, math.ceil(peak / pod))
    fixed, scaled = pods * 24.0, max(float(FEWEST_PODS), mean / pod) * 24
    return Size(
        crops_a_day=crops_a_day,
        mean=mean,
        peak=peak,
        pods=pods,
        machines=math.ceil(pods / assumed.machine_cores),
        memory_gib=pods * curve.memory_mib / 1024,
        mbit_in=peak * curve.request_bytes / curve.crops * 8 / 1e6,
        mbit_out=peak * curve.answer_bytes / curve.crops * 8 / 1e6,
        core_hours_fixed=fixed,
        core_hours_scaled=scaled,
        cost_fixed=fixed * assumed.core_hour,
        cost_scaled=scaled * assumed.core_hour,
    )


def gpu_size(serving: Curve, knee: Point, crops_a_day: int, assumed: Assumptions) -> GpuSize:
    """Resources for a number of crops per day with inference on GPUs.

    Args:
        serving: the curve of a network with negligible cost: what remains for cores when a GPU does the inference.
        knee: of that curve.
        crops_a_day: the volume.
        assumed: with the speed of a GPU.
    """
    peak = crops_a_day / DAY_SECONDS * assumed.peak
    gpus = max(FEWEST_PODS, math.ceil(peak / (assumed.gpu_crops_per_second * assumed.load)))
    cores = max(FEWEST_PODS, math.ceil(peak / pod_capacity(serving, knee, assumed)))
    return GpuSize(crops_a_day, gpus, cores, 24 * (gpus * assumed.gpu_hour + cores * assumed.core_hour))
