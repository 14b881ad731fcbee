from __future__ import annotations

from dataclasses import replace

import pytest

from loadtests.capacity.sizing import Assumptions, gpu_size, pod_capacity, size
from tests.loadtests.capacity.curves import curve, point

ASSUMED = Assumptions(peak=4, load=0.5, machine_cores=10, core_hour=0.1, gpu_crops_per_second=2_000, gpu_hour=3)
KNEE = point(100)
BATCHES = curve("final_best", [KNEE], crops=256, request_bytes=256_000, answer_bytes=25_600, memory_mib=512)


def test_pod_is_given_part_of_its_knee() -> None:
    assert pod_capacity(BATCHES, KNEE, ASSUMED) == 100 * 256 * 0.5


def test_size() -> None:
    # 12,800 crops/s a pod; 1e5 × 12,800 / s at the peak needs a hundred pods.
    day = 12_800 * 86_400 * 25
    found = size(BATCHES, KNEE, day, ASSUMED)
    assert found.mean == pytest.approx(12_800 * 25)
    assert found.peak == pytest.approx(12_800 * 100)
    assert (found.pods, found.machines) == (100, 10)
    assert found.memory_gib == 50
    assert found.mbit_in == pytest.approx(found.peak * 1_000 * 8 / 1e6)
    assert found.mbit_out == pytest.approx(found.peak * 100 * 8 / 1e6)
    assert found.core_hours_fixed == 2_400
    assert found.core_hours_scaled == pytest.approx(600)
    assert (found.cost_fixed, found.cost_scaled) == pytest.approx((240, 60))


def test_pods_are_rounded_up_to_at_least_two() -> None:
    assert size(BATCHES, KNEE, 1, ASSUMED).pods == 2
    assert size(BATCHES, KNEE, 1, ASSUMED).core_hours_scaled == 48
    assert size(BATCHES, KNEE, 12_800 * 86_400 * 25 + 86_400, ASSUMED).pods == 101


def test_gpus_run_inference_and_cores_feed_them() -> None:
    # 128,000 crops/s at the peak.
    found = gpu_size(BATCHES, KNEE, 32_000 * 86_400, ASSUMED)
    assert (found.gpus, found.cores) == (128, 10)
    assert found.cost == pytest.approx(24 * (128 * 3 + 10 * 0.1))
    assert gpu_size(BATCHES, KNEE, 32_000 * 86_400, replace(ASSUMED, gpu_crops_per_second=4_000)).gpus == 64
