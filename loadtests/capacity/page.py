"""The measurement in words and tables, for the report and for ``docs/capacity.md``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from loadtests.capacity.measure import LAG_MS, Curve, Point, Sort
from loadtests.capacity.sizing import VOLUMES, Assumptions, carried, gpu_size, size
from tools.harness.report import described, table
from tools.harness.small_bundle import NAME as SMALL

_BLOCK: Final = re.compile(r"(<!-- measured: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MEMORY_HEADROOM: Final = 1.25
_MEMORY_STEP: Final = 128  # MiB


@dataclass(frozen=True, slots=True)
class Measurement:
    """All curves, the p99 in milliseconds that each kind of request must keep, and the circumstances."""

    about: dict[str, Any]
    limits: dict[Sort, float]
    curves: list[Curve]

    @property
    def pinned(self) -> list[Curve]:
        """The main curves: the service has a core to itself."""
        return [curve for curve in self.curves if not curve.placement.shared and curve.queue is None]

    @property
    def shared(self) -> list[Curve]:
        """The curves on all cores, which the generator shares."""
        return [curve for curve in self.curves if curve.placement.shared]

    @property
    def guarded(self) -> list[Curve]:
        """The curves with a short queue."""
        return [curve for curve in self.curves if curve.queue is not None]

    @property
    def main(self) -> Curve:
        """Single crops with the model that ships."""
        singles = [curve for curve in self.pinned if curve.sort == "single"]
        return next((curve for curve in singles if curve.model != SMALL), singles[0])

    def knee(self, curve: Curve) -> Point | None:
        """The highest rate within the limit."""
        return curve.knee(self.limits[curve.sort])


def report(found: Measurement, assumed: Assumptions) -> str:
    """The whole measurement as a page."""
    parts = ["# Capacity\n", *blocks(found, assumed).values()]
    for curve in found.curves:
        queue = f", EYESTATE_QUEUE={curve.queue}" if curve.queue else ""
        parts += [f"## `{curve.model}`, {what(curve)}, {curve.placement.name}{queue}\n", points(curve)]
    return "\n".join(parts)


def fill(document: str, found: Measurement, assumed: Assumptions) -> str:
    """The document with all blocks between ``<!-- measured: NAME -->`` and ``<!-- end -->`` made anew.

    Raises:
        KeyError: it has a block that is not known.
    """
    made = blocks(found, assumed)
    return _BLOCK.sub(lambda match: f"{match[1]}\n{made[match[2]]}\n{match[3]}", document)


def blocks(found: Measurement, assumed: Assumptions) -> dict[str, str]:
    """The generated parts by name."""
    return {
        "circumstances": circumstances_told(found),
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


def what(curve: Curve) -> str:
    """The request of a curve."""
    return "one JPEG" if curve.sort == "single" else f"{curve.crops} packed"


def circumstances_told(found: Measurement) -> str:
    """When, where and with which versions; whether the generator kept up."""
    devices = ", ".join(sorted({f"`{curve.model}` on {curve.device}" for curve in found.curves}))
    slow = [point for curve in found.curves for point in curve.points if point.lag_ms > LAG_MS]
    kept = (
        f"The load generator began its requests within {LAG_MS:g} ms of their time (p99) at every rate."
        if not slow
        else f"At {len(slow)} rates the load generator itself was late by more than {LAG_MS:g} ms (p99): it shared its "
        f"core, so latencies there are too high."
    )
    return f"{described(found.about)} Computed: {devices}. {kept}\n"


def summary(found: Measurement, curves: Sequence[Curve]) -> str:
    """A row for each curve: its knee, and the most it answers."""
    rows = []
    for curve in curves:
        knee = found.knee(curve)
        rows.append(
            [
                f"`{curve.model}`, {what(curve)}, {curve.placement.name}",
                knee and number(knee.offered),
                knee and number(knee.offered * curve.crops),
                knee and number(knee.p50_ms),
                knee and number(knee.p99_ms),
                knee and number(knee.cpu_seconds_per_1000_crops),
                number(curve.most.crops_per_second),
                number(curve.memory_mib),
                number(curve.ready_seconds),
            ]
        )
    head = ["Model, request, cores", "Knee: requests/s", "crops/s", "p50 ms", "p99 ms", "CPU s per 1,000 crops"]
    return table([*head, "Most crops/s", "Memory MiB", "Ready after s"], rows)


def points(curve: Curve) -> str:
    """A row for each rate of a curve."""
    head = ["Offered crops/s", "Requests", "Answered crops/s", "Refused", "p50 ms", "p95 ms", "p99 ms"]
    return table(
        [*head, "CPU s per 1,000 crops", "Busy cores", "Waiting crops (p95)"],
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
    """What to set for pods of one core that keep the limit of single crops."""
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
        ("`requests.cpu`", "1", "a core for each worker"),
        ("`requests.memory`", f"{memory}Mi", f"{curve.memory_mib:g} MiB measured, and a quarter more"),
        ("requests/s for a pod", number(target), f"{assumed.load:g} of the knee ({number(knee.offered)})"),
        ("HPA `averageUtilization`", f"{busy:.0%}".rstrip("%"), "CPU in use at that rate"),
        ("KEDA, waiting crops", number(max(1.0, knee.waiting)), f"at the knee; {number(waiting)} at that rate"),
        ("KEDA, p95 in seconds", number((knee.p95_ms or 0) / 1e3), f"at the knee; {number(calm / 1e3)} at that rate"),
        *(
            ("`EYESTATE_QUEUE`", f"{each.queue}", "what a core does in half the limit; see below")
            for each in found.guarded
        ),
    ]
    return f"For p99 ≤ {limit:g} ms with single crops:\n\n" + table(["Setting", "Value", "Why"], rows)


def guard(found: Measurement) -> str:
    """What a short queue does, beside the default one at the same rates."""
    rows = []
    for curve in found.guarded:
        for point in curve.points:
            usual = min(found.main.points, key=lambda each: abs(each.offered - point.offered))  # but for rounding
            rows.append(
                (
                    number(point.offered),
                    number(usual.p99_ms),
                    number(point.p99_ms),
                    f"{point.refused / point.sent:.1%}",
                    number(usual.crops_per_second),
                    number(point.crops_per_second),
                )
            )
    head = ["Offered requests/s", "p99 ms, default queue", "p99 ms, short queue", "Refused by the short one"]
    return table([*head, "Answered/s, default", "Answered/s, short"], rows)


def workers(found: Measurement) -> str:
    """How several workers compare with one on the same cores."""
    lines = []
    for one in (curve for curve in found.shared if curve.placement.workers == 1):
        for many in found.shared:
            if (many.model, many.sort) == (one.model, one.sort) and many.placement.workers > 1:
                most = many.most.crops_per_second / one.most.crops_per_second
                memory = many.memory_mib / one.memory_mib
                told = f"{many.placement.workers} workers answer up to {most:.2f} × as many crops"
                knees = _knees(found.knee(one), found.knee(many))
                lines.append(f"- `{one.model}`, {what(one)}: {told}{knees}, in {memory:.2f} × the memory.")
    return "\n".join([*lines, ""])


def _knees(one: Point | None, many: Point | None) -> str:
    return f", the knee at {many.offered / one.offered:.2f} × the rate" if one and many else ""


def assumptions(assumed: Assumptions) -> str:
    """What the sizing assumes, and which option changes it."""
    return table(
        ["Assumption", "Example", "Option"],
        [
            ("peak second over mean second", f"{assumed.peak:g}", "`--peak`"),
            ("load of a pod at the peak, of its knee", f"{assumed.load:g}", "`--load`"),
            ("cores of a machine", f"{assumed.machine_cores}", "`--machine-cores`"),
            ("price of a core for an hour", f"{assumed.core_hour:g}", "`--core-hour`"),
            ("crops/s of a GPU", f"{assumed.gpu_crops_per_second:,.0f}", "`--gpu-crops-per-second`"),
            ("price of a GPU for an hour", f"{assumed.gpu_hour:g}", "`--gpu-hour`"),
        ],
    )


def arithmetic(found: Measurement, assumed: Assumptions) -> str:
    """One sizing, step by step."""
    curve, volume = found.main, VOLUMES[1]
    if (knee := found.knee(curve)) is None:
        return "Not possible: no rate kept the limit.\n"
    one = size(curve, knee, volume, assumed)
    pod = carried(curve, knee, assumed)
    cpu = knee.cpu_seconds_per_1000_crops or 0
    rows = [
        ("mean, crops/s", f"{volume:,} ÷ 86,400 s", number(one.mean)),
        ("peak, crops/s", f"{number(one.mean)} × {assumed.peak:g}", number(one.peak)),
        (
            "a pod at the peak, crops/s",
            f"{number(knee.offered * curve.crops)} at the knee × {assumed.load:g}",
            number(pod),
        ),
        ("pods, of one core each", f"{number(one.peak)} ÷ {number(pod)}, rounded up", f"{one.pods:,}"),
        ("machines", f"{one.pods:,} ÷ {assumed.machine_cores} cores, rounded up", f"{one.machines:,}"),
        ("core-hours a day, all pods all day", f"{one.pods:,} × 24", number(one.core_hours_fixed)),
        ("core-hours a day, scaled", f"{number(one.mean)} ÷ {number(pod)} × 24", number(one.core_hours_scaled)),
        ("core-hours a day of computing", f"{volume:,} × {cpu:g} s ÷ 1,000 ÷ 3,600", number(volume * cpu / 3.6e6)),
        ("cost a day, scaled", f"{number(one.core_hours_scaled)} × {assumed.core_hour:g}", number(one.cost_scaled)),
    ]
    return f"`{curve.model}`, {what(curve)} a request, {volume:,} crops a day:\n\n" + table(
        ["Figure", "Arithmetic", "Result"], rows
    )


def sizes(found: Measurement, assumed: Assumptions) -> str:
    """What each volume takes, by model and request."""
    rows = []
    for curve in found.pinned:
        if (knee := found.knee(curve)) is None:
            continue
        for volume in VOLUMES:
            one = size(curve, knee, volume, assumed)
            rows.append(
                [
                    f"{volume:,}, `{curve.model}`, {what(curve)}",
                    number(one.peak),
                    f"{one.pods:,}",
                    f"{one.machines:,}",
                    number(one.memory_gib),
                    number(one.mbit_in),
                    number(one.mbit_out),
                    number(one.cost_fixed),
                    number(one.cost_scaled),
                ]
            )
    head = ["Crops a day, model, request", "Peak crops/s", "Cores = pods", "Machines", "Memory GiB", "Mbit/s in"]
    return table([*head, "Mbit/s out", "Cost a day, fixed", "Cost a day, scaled"], rows)


def bandwidth(found: Measurement) -> str:
    """Bytes of a crop on its way."""
    kinds = {curve.sort: curve for curve in found.pinned}
    return table(
        ["Request", "Bytes of a request", "Bytes per crop, in", "Bytes per crop, out"],
        [
            (
                what(curve),
                f"{curve.request_bytes:,}",
                number(curve.request_bytes / curve.crops),
                number(curve.answer_bytes / curve.crops),
            )
            for curve in kinds.values()
        ],
    )


def gpus(found: Measurement, assumed: Assumptions) -> str:
    """What each volume takes on GPUs of an assumed speed."""
    rows = []
    for curve in found.pinned:
        if curve.model != SMALL or (knee := found.knee(curve)) is None:
            continue
        for volume in VOLUMES:
            one = gpu_size(curve, knee, volume, assumed)
            rows.append((f"{volume:,}, {what(curve)}", f"{one.gpus:,}", f"{one.cores:,}", number(one.cost)))
    return table(["Crops a day, request", "GPUs (assumed speed)", "Cores that feed them", "Cost a day"], rows)


def at(curve: Curve, offered: float, values: Sequence[float]) -> float:
    """A value between the measured rates."""
    return float(np.interp(offered, [point.offered for point in curve.points], values))


def number(value: float | None) -> str | None:
    """Three digits that count, or all of a larger number."""
    if value is None:
        return None
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
