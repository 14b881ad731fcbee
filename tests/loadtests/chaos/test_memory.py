from __future__ import annotations

import pytest

from loadtests.chaos.memory import Sample, memory_growth


def test_leak() -> None:
    samples = [Sample(second, 100 + second / 30) for second in range(120)]
    found = memory_growth(samples, warm_up=30)
    assert found.slope_mib_per_minute == pytest.approx(2, abs=0.01)
    assert found.total_mib == pytest.approx(80 / 30, abs=0.1)


def test_memory_taken_during_warm_up_is_not_growth() -> None:
    samples = [Sample(second, 50 if second < 20 else 100) for second in range(120)]
    found = memory_growth(samples, warm_up=30)
    assert found.slope_mib_per_minute == pytest.approx(0, abs=1e-6)
    assert (found.total_mib, found.most_mib) == (0, 100)


def test_single_sample_is_no_growth() -> None:
    assert memory_growth([Sample(0, 10.0)], warm_up=5).total_mib == 0
