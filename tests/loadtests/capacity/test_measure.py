from __future__ import annotations

from os import sched_getaffinity

import psutil
import pytest

from loadtests.capacity import measure
from loadtests.capacity.measure import Placement, Plan, batch, cpu_seconds, measure_curves, single
from tests.loadtests.capacity.curves import curve, point
from tools.harness import crops
from tools.harness.servers import Server


class TestKnee:
    def test_highest_rate_that_holds(self) -> None:
        found = curve("model", [point(10, 20), point(20, 50), point(30, 51)])
        knee = found.knee(50)
        assert knee is not None
        assert knee.offered == 20
        assert found.best_point.offered == 30

    def test_rejections_and_backlog_do_not_hold(self) -> None:
        assert not point(10, 20, refused=1).holds(50)
        assert not point(10, 20, elapsed=12).holds(50)
        assert point(10, 20, elapsed=10.2).holds(50)

    def test_none(self) -> None:
        assert curve("model", [point(10, 60)]).knee(50) is None


def test_arrivals() -> None:
    steady = batch(4).arrivals(10, seed=0)
    assert [next(steady) for _ in range(3)] == pytest.approx([0, 0.1, 0.2])
    random = single().arrivals(100, seed=0)
    times = [next(random) for _ in range(5_000)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(50, rel=0.1)


@pytest.mark.skipif(len(sched_getaffinity(0)) < 2, reason="the service needs a separate core")
def test_service_on_a_separate_core(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sched_getaffinity(0)
    affinities: list[list[int]] = []
    cpu: list[float] = []

    def observed(server: Server) -> float:
        affinities.extend(psutil.Process(process.pid).cpu_affinity() for process in server.processes())
        cpu.append(cpu_seconds(server))
        return cpu[-1]

    monkeypatch.setattr(measure, "cpu_seconds", observed)
    monkeypatch.setattr(measure, "WARM_UP_SECONDS", 0.2)
    plans = [Plan(single(), (0.1, 0.2), 0.5), Plan(batch(8), (1.0,), 0.5, max_rate=40)]
    ones, eights = measure_curves(crops.bundle("small"), Placement(1, shared=False, workers=1), plans)
    assert sched_getaffinity(0) == before
    assert affinities
    assert {tuple(cores) for cores in affinities} == {(max(before),)}

    assert ones.points[1].offered == pytest.approx(2 * ones.points[0].offered, rel=0.01)
    for found in (*ones.points, *eights.points):
        assert found.sent == found.answered + found.refused + found.failed
        assert found.failed == 0
        assert found.p50_ms is not None
        assert found.p99_ms is not None
        assert 0 < found.p50_ms <= found.p99_ms
        assert found.busy_cores > 0
    spent = sum((found.cpu_seconds_per_1000_crops or 0) * found.answered for found in ones.points) / 1e3
    assert spent == pytest.approx(cpu[1] - cpu[0] + cpu[3] - cpu[2], rel=0.02)
    assert eights.points[0].offered == 40
    assert eights.points[0].crops_per_second == pytest.approx(
        8 * eights.points[0].answered / eights.points[0].elapsed, rel=0.05
    )
    assert (ones.kind, ones.crops, eights.kind, eights.crops) == ("single", 1, "packed", 8)
    assert ones.device == eights.device != ""
    assert 50 < ones.memory_mib < 5_000
    assert ones.ready_seconds > 0
    assert ones.request_bytes == len(single().request)
    assert 100 < ones.answer_bytes < 1_000
