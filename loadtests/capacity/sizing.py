"""From what one core carries to machines and money: the arithmetic, and nothing that was not measured or assumed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from loadtests.capacity.measure import Curve, Point

DAY_SECONDS: Final = 86_400
VOLUMES: Final = (1_000_000, 100_000_000, 10_000_000_000)  # crops a day
FEWEST_PODS: Final = 2  # so that one may go


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What a reader has to replace by figures of their own; nothing of it was measured."""

    peak: float = 3.0  # busiest second over the mean of the day
    load: float = 0.7  # of the knee, at the peak
    machine_cores: int = 32
    core_hour: float = 0.04  # price, an example
    gpu_crops_per_second: float = 10_000.0  # an example; `python -m loadtests.devices --device cuda` measures yours
    gpu_hour: float = 2.0  # price, an example


@dataclass(frozen=True, slots=True)
class Size:
    """What a number of crops a day takes. Crops are per second, traffic is at the peak, in Mbit/s."""

    crops_a_day: int
    mean: float
    peak: float
    pods: int  # of one core
    machines: int
    memory_gib: float
    mbit_in: float
    mbit_out: float
    core_hours_fixed: float  # a day, with all pods all day
    core_hours_scaled: float  # a day, with as many pods as the load of the hour needs
    cost_fixed: float
    cost_scaled: float


@dataclass(frozen=True, slots=True)
class GpuSize:
    """The same on GPUs: these compute, and cores receive, decode and answer."""

    crops_a_day: int
    gpus: int
    cores: int
    cost: float


def carried(curve: Curve, knee: Point, assumed: Assumptions) -> float:
    """Crops a second that a pod gets at the peak."""
    return knee.offered * curve.crops * assumed.load


def size(curve: Curve, knee: Point, crops_a_day: int, assumed: Assumptions) -> Size:
    """What a number of crops a day takes on pods of one core, each as measured."""
    mean = crops_a_day / DAY_SECONDS
    peak = mean * assumed.peak
    pod = carried(curve, knee, assumed)
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
    """What a number of crops a day takes where GPUs compute.

    Args:
        serving: the curve of a network that costs next to nothing: what is left to cores once a GPU computes.
        knee: of that curve.
        crops_a_day: the number.
        assumed: with the speed of a GPU.
    """
    peak = crops_a_day / DAY_SECONDS * assumed.peak
    gpus = max(FEWEST_PODS, math.ceil(peak / (assumed.gpu_crops_per_second * assumed.load)))
    cores = max(FEWEST_PODS, math.ceil(peak / carried(serving, knee, assumed)))
    return GpuSize(crops_a_day, gpus, cores, 24 * (gpus * assumed.gpu_hour + cores * assumed.core_hour))
