"""What a run found, as it is kept in ``reports/benchmarks/<device>.json``, and whether it is what was wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from tools.benchmarks.contestants import CASCADE, FINAL_BEST, LITE, PEERS
from tools.benchmarks.cost import Cost
from tools.benchmarks.speed import ONNX_RUNTIME, Roof, Speed
from training.evaluation.eer import Interval

CLOSE: Final = 0.003  # EER that final_best_lite may lose
EQUAL: Final = 0.001  # EER that the cascade may lose and still count as equal
LITE_SPEEDUP: Final = 100
CASCADE_SPEEDUP: Final = 20


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TestSet(_Part):
    """What was judged on."""

    __test__ = False  # not a test of pytest's

    name: str
    what: str
    crops: int
    open: int
    subjects: int | None


class Row(_Part):
    """A contestant.

    ``boxes`` holds the EER by part of the crop and test, ``shown`` the part chosen by test. ``difference`` is that of
    the EER from final_best's. ``escalated`` is the share of the crops for which a cascade asked its thorough network;
    ``cost`` has that share of it on the mix.
    """

    name: str
    licence: str
    note: str
    shown: dict[str, str]
    boxes: dict[str, dict[str, float]]
    cost: Cost
    memory: float
    eer: dict[str, Interval]
    difference: dict[str, Interval]
    escalated: dict[str, float]


class Report(_Part):
    """A run. ``absent`` tells by name why a contestant is missing; ``mix`` are speeds on real crops."""

    about: dict[str, Any]
    device: str
    tests: list[TestSet]
    rows: list[Row]
    absent: dict[str, str]
    bare_memory: float
    speeds: list[Speed]
    mix: list[Speed]
    mix_crops: int
    mix_escalated: float | None
    roof: Roof

    def row(self, name: str) -> Row | None:
        """The row of that name."""
        return next((row for row in self.rows if row.name == name), None)

    def by_batch(self, name: str, engine: str, *, mix: bool = False) -> dict[int, Speed]:
        """The speeds of a contestant on an engine, by batch size."""
        speeds = self.mix if mix else self.speeds
        return {speed.batch: speed for speed in speeds if (speed.name, speed.engine) == (name, engine)}

    @property
    def engines(self) -> list[str]:
        """In their order."""
        return list(dict.fromkeys(speed.engine for speed in self.speeds))


@dataclass(frozen=True, slots=True)
class Target:
    """What was wanted, what was found, and whether that is enough; None where it was not measured."""

    wanted: str
    found: str
    held: bool | None


def targets(report: Report) -> Iterator[Target]:
    """All that was wanted."""
    yield _close(report, LITE, CLOSE, f"EER of {LITE} within {CLOSE} of {FINAL_BEST}'s")
    yield _faster(
        f"{LITE} at least {LITE_SPEEDUP} × the crops/s of {FINAL_BEST}, {ONNX_RUNTIME}, each at its best batch",
        report.by_batch(LITE, ONNX_RUNTIME),
        report.by_batch(FINAL_BEST, ONNX_RUNTIME),
        LITE_SPEEDUP,
    )
    for engine in report.engines:
        yield _fastest(report, engine)
    yield _close(report, CASCADE, EQUAL, f"EER of the cascade {FINAL_BEST}'s, within {EQUAL}")
    yield _faster(
        f"the cascade at least {CASCADE_SPEEDUP} × the crops/s of {FINAL_BEST} on the mix, each at its best batch",
        report.by_batch(CASCADE, ONNX_RUNTIME, mix=True),
        report.by_batch(FINAL_BEST, ONNX_RUNTIME, mix=True),
        CASCADE_SPEEDUP,
    )


def _close(report: Report, name: str, most: float, wanted: str) -> Target:
    row = report.row(name)
    if row is None or not row.difference:
        return Target(wanted, "not measured", None)
    what = {test.name: test.what for test in report.tests}
    found = [f"{d.value:+.4f} ({d.low:+.4f} to {d.high:+.4f}) on {what[test]}" for test, d in row.difference.items()]
    return Target(wanted, "; ".join(found), all(d.value <= most for d in row.difference.values()))


def _faster(wanted: str, quick: dict[int, Speed], slow: dict[int, Speed], least: float) -> Target:
    if not quick or not slow:
        return Target(wanted, "not measured", None)
    best = max(speed.median for speed in quick.values()) / max(speed.median for speed in slow.values())
    ratios = ", ".join(f"{quick[batch].median / slow[batch].median:.1f} × at {batch}" for batch in quick)
    return Target(wanted, f"{best:.1f} ×; at equal batch sizes {ratios}", best >= least)


def _fastest(report: Report, engine: str) -> Target:
    wanted = f"{LITE} faster than every peer at equal batch sizes, {engine}"
    lite = report.by_batch(LITE, engine)
    peers = {name: speeds for name in PEERS if (speeds := report.by_batch(name, engine))}
    if not lite or not peers:
        return Target(wanted, "not measured", None)
    ratios = {}
    for batch, speed in lite.items():
        name, rival = max(((name, speeds[batch].median) for name, speeds in peers.items()), key=lambda item: item[1])
        ratios[batch] = speed.median / rival, name
    found = ", ".join(f"{ratio:.2f} × {name} at {batch}" for batch, (ratio, name) in ratios.items())
    return Target(wanted, found, all(ratio > 1 for ratio, _ in ratios.values()))
