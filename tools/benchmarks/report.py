"""The results of a run, stored in ``reports/benchmarks/<device>.json``, and the targets they are held against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from tools.benchmarks.candidates import CASCADE, FINAL_BEST, LITE, PEERS
from tools.benchmarks.cost import Cost
from tools.benchmarks.speed import ONNX_RUNTIME, Roofline, Speed
from training.evaluation.intervals import Interval

CLOSE: Final = 0.005  # tolerated EER difference of final_best_lite
EQUAL: Final = 0.001  # EER difference up to which the cascade counts as equal
LITE_SPEEDUP: Final = 100
CASCADE_SPEEDUP: Final = 20


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SetSummary(_Part):
    """An evaluation set."""

    __test__ = False  # not a test of pytest's

    name: str
    what: str
    crops: int
    open: int
    subjects: int | None


class Row(_Part):
    """The results of one candidate.

    Attributes:
        chosen_region: region of the crop that it is given, by evaluation set.
        region_eers: EER by region and evaluation set.
        from_manifest: evaluation sets whose EER is by networks of the same training that never saw the person.
        difference: EER minus final_best's, by evaluation set that both scored.
        deferred: share of the crops that a cascade defers to its large network, by evaluation set.
        cost: for a cascade, with the large network at the deferral rate of the mix.
        memory: peak in MiB.
    """

    name: str
    licence: str
    note: str
    chosen_region: dict[str, str]
    region_eers: dict[str, dict[str, float]]
    cost: Cost
    memory: float
    eer: dict[str, Interval]
    from_manifest: list[str]
    difference: dict[str, Interval]
    deferred: dict[str, float]


class Report(_Part):
    """The results of a run.

    Attributes:
        missing: by name, why a candidate was not measured.
        baseline_memory: peak in MiB of a process that loads no network.
        mix: speeds on real crops.
        mix_deferred: share of these that the cascade defers, None without a cascade.
    """

    about: dict[str, Any]
    device: str
    evaluation_sets: list[SetSummary]
    rows: list[Row]
    missing: dict[str, str]
    baseline_memory: float
    speeds: list[Speed]
    mix: list[Speed]
    mix_crops: int
    mix_deferred: float | None
    roofline: Roofline

    def row(self, name: str) -> Row | None:
        """The row of that name."""
        return next((row for row in self.rows if row.name == name), None)

    def by_batch(self, name: str, engine: str, *, mix: bool = False) -> dict[int, Speed]:
        """The speeds of a candidate on an engine, by batch size."""
        speeds = self.mix if mix else self.speeds
        return {speed.batch: speed for speed in speeds if (speed.name, speed.engine) == (name, engine)}

    @property
    def engines(self) -> list[str]:
        """The engines, in the order measured."""
        return list(dict.fromkeys(speed.engine for speed in self.speeds))


@dataclass(frozen=True, slots=True)
class Target:
    """A target, what was found, and whether it is met; None if it was not measured."""

    wanted: str
    found: str
    held: bool | None


def targets(report: Report) -> Iterator[Target]:
    """All targets."""
    yield _close(report, LITE, CLOSE, f"EER of {LITE} within {CLOSE} of {FINAL_BEST}'s")
    yield _faster(
        f"{LITE} at least {LITE_SPEEDUP} × the crops/s of {FINAL_BEST}, {ONNX_RUNTIME}, each at its best batch",
        report.by_batch(LITE, ONNX_RUNTIME),
        report.by_batch(FINAL_BEST, ONNX_RUNTIME),
        LITE_SPEEDUP,
    )
    for engine in report.engines:
        yield _fastest(report, engine)
    yield _close(report, CASCADE, EQUAL, f"EER of the cascade within {EQUAL} of {FINAL_BEST}'s")
    yield _faster(
        f"the cascade at least {CASCADE_SPEEDUP} × the crops/s of {FINAL_BEST} on the mix, each at its best batch",
        report.by_batch(CASCADE, ONNX_RUNTIME, mix=True),
        report.by_batch(FINAL_BEST, ONNX_RUNTIME, mix=True),
        CASCADE_SPEEDUP,
    )


def _close(report: Report, name: str, most: float, wanted: str) -> Target:
    row, best = report.row(name), report.row(FINAL_BEST)
    if row is None or best is None or not row.difference:
        return Target(wanted, "not measured", None)
    values, found = [], []
    for test in report.evaluation_sets:
        if difference := row.difference.get(test.name):
            values.append(difference.value)
            found.append(f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f}) on {test.what}")
        elif test.name in row.from_manifest and test.name in best.from_manifest:
            values.append(row.eer[test.name].value - best.eer[test.name].value)
            found.append(f"{values[-1]:+.4f} on {test.what}, people never seen")
    return Target(wanted, "; ".join(found), all(value <= most for value in values))


def _faster(wanted: str, fast: dict[int, Speed], slow: dict[int, Speed], least: float) -> Target:
    if not fast or not slow:
        return Target(wanted, "not measured", None)
    best = max(speed.median for speed in fast.values()) / max(speed.median for speed in slow.values())
    ratios = ", ".join(f"{fast[batch].median / slow[batch].median:.1f} × at {batch}" for batch in fast)
    return Target(wanted, f"{best:.1f} ×; at equal batch sizes {ratios}", best >= least)


def _fastest(report: Report, engine: str) -> Target:
    wanted = f"{LITE} faster than every peer at equal batch sizes, {engine}"
    lite = report.by_batch(LITE, engine)
    peers = {name: speeds for name in PEERS if (speeds := report.by_batch(name, engine))}
    if not lite or not peers:
        return Target(wanted, "not measured", None)
    ratios = {}
    for batch, speed in lite.items():
        name, fastest = max(((name, speeds[batch].median) for name, speeds in peers.items()), key=lambda item: item[1])
        ratios[batch] = speed.median / fastest, name
    found = ", ".join(f"{ratio:.2f} × {name} at {batch}" for batch, (ratio, name) in ratios.items())
    return Target(wanted, found, all(ratio > 1 for ratio, _ in ratios.values()))
