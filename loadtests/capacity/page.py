"""The measurement as text and tables, for the report and for ``docs/capacity.md``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from loadtests.capacity.measure import LAG_MS, Curve, Point, RequestKind
from loadtests.capacity.sizing import VOLUMES, Assumptions, gpu_size, pod_capacity, size
from tools.harness.report import describe_conditions, table
from tools.harness.small_bundle import NAME as SMALL

_BLOCK: Final = re.compile(r"(<!-- measured: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MEMORY_HEADROOM: Final = 1.25
_MEMORY_STEP: Final = 128  # MiB


@dataclass(frozen=True, slots=True)
class Measurement:
    """All curves, the p99 limit in milliseconds for each kind of request, and the conditions of the run."""

    about: dict[str, Any]
    limits: dict[RequestKind, float]
    curves: list[Curve]

    @property
    def pinned(self) -> list[Curve]:
        """The main curves, with a separate core for the service."""
        return [curve for curve in self.curves if not curve.placement.shared and curve.queue is None]

    @property
    def shared(self) -> list[Curve]:
        """The curves on all cores, shared with the generator."""
        return [curve for curve in self.curves if curve.placement.shared]

    @property
    def short_queue(self) -> list[Curve]:
        """The curves with a short queue."""
        return [curve for curve in self.curves if curve.queue is not None]

    @property
    def main(self) -> Curve:
        """Single crops with the shipped model."""
        singles = [curve for curve in self.pinned if curve.kind == "single"]
        return next((curve for curve in singles if curve.model != SMALL), singles[0])

    def knee(self, curve: Curve) -> Point | None:
        """The highest rate within the limit."""
        return curve.knee(self.limits[curve.kind])


def report(found: Measurement, assumed: Assumptions) -> str:
    """The whole measurement as a page."""
    parts = ["# Capacity\n", *blocks(found, assumed).values()]
    for curve in found.curves:
        queue = f", EYESTATE_QUEUE={curve.queue}" if curve.queue else ""
        parts += [f"## {curve.title}, {describe_request(curve)}, {curve.placement.name}{queue}\n", points(curve)]
    return "\n".join(parts)


def fill(document: str, found: Measurement, assumed: Assumptions) -> str:
    """The document with all blocks between ``<!-- measured: NAME -->`` and ``<!-- end -->`` regenerated.

    Raises:
        KeyError: it has an unknown block.
    """
    made = blocks(found, assumed)
    return _BLOCK.sub(lambda match: f"{match[1]}\n{made[match[2]]}\n{match[3]}", document)


def blocks(found: Measurement, assumed: Assumptions) -> dict[str, str]:
    """The generated parts by name."""
    return {
        "circumstances": conditions_block(found),
        "one-core": summary(found, found.pinned),
        "curve": points(found.main),
        "all-cores": summary(found, found.shared),
        "workers": workers(found),
        "settings": settings(found, assumed),
        "guard": guard(found),
        "assumptions": assumptions(assumed),
        "arithmetic": arithmetic(found, assumed),
        "sizes": sizes(found, assumed),
        "bandwidth": bandwidth(found),
        "gpus": gpus(found, assumed),
    }


def describe_request(curve: Curve) -> str:
    """The request of a curve."""
    return "one JPEG" if curve.kind == "single" else f"{curve.crops} packed"


def conditions_block(found: Measurement) -> str:
    """Date, machine and versions, and whether the generator kept up."""
    devices = ", ".join(sorted({f"`{curve.model}` on {curve.device}" for curve in found.curves}))
    slow = [point for curve in found.curves for point in curve.points if point.lag_ms > LAG_MS]
    kept = (
        f"The load generator sent requests within {LAG_MS:g} ms of their due time (p99) at every rate."
        if not slow
        else f"At {len(slow)} rates the load generator itself was more than {LAG_MS:g} ms late (p99) because it shared "
        f"its core, so latencies there are overestimated."
    )
    limits = f"{found.limits['single']:g} ms for single crops, {found.limits['packed'] / 1e3:g} s for packed ones"
    return f"{describe_conditions(found.about)} Computed: {devices}. The limits of the p99: {limits}. {kept}\n"


def summary(found: Measurement, curves: Sequence[Curve]) -> str:
    """A row per curve: its knee and its highest throughput."""
    rows = []
    for curve in curves:
        knee = found.knee(curve)
        rows.append(
            [
                f"{curve.title}, {describe_request(curve)}, {curve.placement.name}",
                knee and number(knee.offered),
                knee and number(knee.offered * curve.crops),
                knee and number(knee.p50_ms),
                knee and number(knee.p99_ms),
                knee and number(knee.cpu_seconds_per_1000_crops),
                number(curve.best_point.crops_per_second),
                number(curve.memory_mib),
            ]
        )
    head = ["Model, request, cores", "Knee: requests/s", "crops/s", "p50 ms", "p99 ms", "CPU s per 1,000 crops"]
    return table([*head, "Max. crops/s", "Memory MiB"], rows)


def points(curve: Curve) -> str:
    """A row per rate of a curve."""
    head = ["Offered crops/s", "Requests", "Answered crops/s", "Rejected", "p50 ms", "p95 ms", "p99 ms"]
    return table(
        [*head, "CPU s per 1,000 crops", "Busy cores", "Queued crops (p95)"],
        [
            (
                number(point.offered * curve.crops),
                f"{point.sent:,}",
                number(point.crops_per_second),
                f"{point.refused / point.sent:.1%}" if point.refused else "0",
                number(point.p50_ms),
                number(point.p95_ms),
                number(point.p99_ms),
                number(point.cpu_seconds_per_1000_crops),
                f"{point.busy_cores:.2f}",
                number(point.waiting),
            )
            for point in curve.points
        ],
    )


def settings(found: Measurement, assumed: Assumptions) -> str:
    """Settings for pods with one core that keep the limit of single crops."""
    curve, limit = found.main, found.limits["single"]
    knee = found.knee(curve)
    if knee is None:
        return f"No rate kept p99 ≤ {limit:g} ms: a core of this kind is too slow for that target.\n"
    target = knee.offered * assumed.load
    busy = at(curve, target, [point.busy_cores for point in curve.points])
    memory = math.ceil(curve.memory_mib * _MEMORY_HEADROOM / _MEMORY_STEP) * _MEMORY_STEP
    calm = at(curve, target, [point.p95_ms or 0 for point in curve.points])
    waiting = at(curve, target, [point.waiting for point in curve.points])
    rows = [
        ("`requests.cpu`", "1", "one core per worker"),
        ("`requests.memory`", f"{memory}Mi", f"{curve.memory_mib:g} MiB measured, plus a quarter"),
        ("requests/s per pod", number(target), f"{assumed.load:g} of the knee ({number(knee.offered)})"),
        ("HPA `averageUtilization`", f"{busy:.0%}".rstrip("%"), "CPU in use at that rate"),
        (
            "KEDA, queued crops",
            number(max(1.0, curve.best_point.crops_per_second * limit / 2e3)),
            f"scored in half the limit at {number(curve.best_point.crops_per_second)} crops/s; "
            f"{number(waiting)} wait at that rate",
        ),
        ("KEDA, p95 in seconds", number((knee.p95_ms or 0) / 1e3), f"at the knee; {number(calm / 1e3)} at that rate"),
        *(
            ("`EYESTATE_QUEUE`", f"{each.queue}", "crops scored by one core in half the limit; see below")
            for each in found.short_queue
        ),
    ]
    return f"For p99 ≤ {limit:g} ms with single crops:\n\n" + table(["Setting", "Value", "Why"], rows)


def guard(found: Measurement) -> str:
    """The effect of a short queue, compared with the default one at the same rates."""
    rows = []
    for curve in found.short_queue:
        for point in curve.points:
            default = min(found.main.points, key=lambda each: abs(each.offered - point.offered))  # equal up to rounding
            rows.append(
                (
                    number(point.offered),
                    number(default.p99_ms),
                    number(point.p99_ms),
                    f"{point.refused / point.sent:.1%}",
                    number(default.crops_per_second),
                    number(point.crops_per_second),
                )
            )
    head = ["Offered requests/s", "p99 ms, default queue", "p99 ms, short queue", "Rejected with short queue"]
    return table([*head, "Answered/s, default queue", "Answered/s, short queue"], rows)


def workers(found: Measurement) -> str:
    """Several workers compared with one on the same cores."""
    lines = []
    for one in (curve for curve in found.shared if curve.placement.workers == 1):
        for many in found.shared:
            if (many.title, many.kind) == (one.title, one.kind) and many.placement.workers > 1:
                most = many.best_point.crops_per_second / one.best_point.crops_per_second
                memory = many.memory_mib / one.memory_mib
                comparison = f"{many.placement.workers} workers score up to {most:.2f} × as many crops"
                knees = _knees(found.knee(one), found.knee(many))
                lines.append(
                    f"- {one.title}, {describe_request(one)}: {comparison}{knees}, in {memory:.2f} × the memory."
                )
    return "\n".join([*lines, ""])


def _knees(one: Point | None, many: Point | None) -> str:
    return f", with the knee at {many.offered / one.offered:.2f} × the rate" if one and many else ""


def assumptions(assumed: Assumptions) -> str:
    """The assumptions of the sizing, and the option that changes each."""
    return table(
        ["Assumption", "Example", "Option"],
        [
            ("peak rate over mean rate", f"{assumed.peak:g}", "`--peak`"),
            ("pod load at the peak, as a share of its knee", f"{assumed.load:g}", "`--load`"),
            ("cores per machine", f"{assumed.machine_cores}", "`--machine-cores`"),
            ("price of a core-hour", f"{assumed.core_hour:g}", "`--core-hour`"),
            ("crops/s per GPU", f"{assumed.gpu_crops_per_second:,.0f}", "`--gpu-crops-per-second`"),
            ("price of a GPU-hour", f"{assumed.gpu_hour:g}", "`--gpu-hour`"),
        ],
    )


def arithmetic(found: Measurement, assumed: Assumptions) -> str:
    """One sizing, step by step."""
    curve, volume = found.main, VOLUMES[1]
    if (knee := found.knee(curve)) is None:
        return "Not possible: no rate kept the limit.\n"
    one = size(curve, knee, volume, assumed)
    pod = pod_capacity(curve, knee, assumed)
    cpu = knee.cpu_seconds_per_1000_crops or 0
    rows = [
        ("mean, crops/s", f"{volume:,} ÷ 86,400 s", number(one.mean)),
        ("peak, crops/s", f"{number(one.mean)} × {assumed.peak:g}", number(one.peak)),
        (
            "per pod at the peak, crops/s",
            f"{number(knee.offered * curve.crops)} at the knee × {assumed.load:g}",
            number(pod),
        ),
        ("pods with one core each", f"{number(one.peak)} ÷ {number(pod)}, rounded up", f"{one.pods:,}"),
        ("machines", f"{one.pods:,} ÷ {assumed.machine_cores} cores, rounded up", f"{one.machines:,}"),
        ("core-hours per day, constant number of pods", f"{one.pods:,} × 24", number(one.core_hours_fixed)),
        ("core-hours per day, autoscaled", f"{number(one.mean)} ÷ {number(pod)} × 24", number(one.core_hours_scaled)),
        ("core-hours per day of CPU time", f"{volume:,} × {cpu:g} s ÷ 1,000 ÷ 3,600", number(volume * cpu / 3.6e6)),
        (
            "cost per day, autoscaled",
            f"{number(one.core_hours_scaled)} × {assumed.core_hour:g}",
            number(one.cost_scaled),
        ),
    ]
    return f"{curve.title}, {describe_request(curve)} per request, {volume:,} crops per day:\n\n" + table(
        ["Figure", "Arithmetic", "Result"], rows
    )


def sizes(found: Measurement, assumed: Assumptions) -> str:
    """Resources for each volume, by model and request."""
    rows = []
    for curve in found.pinned:
        if (knee := found.knee(curve)) is None:
            continue
        for volume in VOLUMES:
            one = size(curve, knee, volume, assumed)
            rows.append(
                [
                    f"{volume:,}, {curve.title}, {describe_request(curve)}",
                    number(one.peak),
                    f"{one.pods:,}",
                    f"{one.machines:,}",
                    number(one.memory_gib),
                    number(one.mbit_in),
                    number(one.mbit_out),
                    number(one.cost_fixed),
                    number(one.cost_scaled),
                    number(one.cost_scaled / volume * 1e6),
                ]
            )
    head = ["Crops per day, model, request", "Peak crops/s", "Cores = pods", "Machines", "Memory GiB", "Mbit/s in"]
    costs = ["Cost per day, constant", "Cost per day, autoscaled", "Cost per million, autoscaled"]
    return table([*head, "Mbit/s out", *costs], rows)


def bandwidth(found: Measurement) -> str:
    """Bytes per crop on the wire."""
    kinds = {curve.kind: curve for curve in found.pinned}
    return table(
        ["Request", "Bytes per request", "Bytes per crop, in", "Bytes per crop, out"],
        [
            (
                describe_request(curve),
                f"{curve.request_bytes:,}",
                number(curve.request_bytes / curve.crops),
                number(curve.answer_bytes / curve.crops),
            )
            for curve in kinds.values()
        ],
    )


def gpus(found: Measurement, assumed: Assumptions) -> str:
    """Resources for each volume on GPUs of an assumed speed."""
    rows = []
    for curve in found.pinned:
        if curve.model != SMALL or (knee := found.knee(curve)) is None:
            continue
        for volume in VOLUMES:
            one = gpu_size(curve, knee, volume, assumed)
            rows.append((f"{volume:,}, {describe_request(curve)}", f"{one.gpus:,}", f"{one.cores:,}", number(one.cost)))
    return table(["Crops per day, request", "GPUs (assumed speed)", "Cores to feed them", "Cost per day"], rows)


def at(curve: Curve, offered: float, values: Sequence[float]) -> float:
    """A value interpolated between the measured rates."""
    return float(np.interp(offered, [point.offered for point in curve.points], values))


def number(value: float | None) -> str | None:
    """Three significant digits, or all digits of a larger number."""
    if value is None:
        return None
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
