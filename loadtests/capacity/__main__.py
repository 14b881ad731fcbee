"""``python -m loadtests.capacity``: the capacity of one pod on this machine, and the sizing that follows from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from os import sched_getaffinity
from pathlib import Path
from typing import Final, get_args

import click
from pydantic import TypeAdapter

from eyestate.atomic import write_atomically
from eyestate.bundle import DEFAULT_MODEL
from eyestate.settings import Device
from loadtests.capacity.measure import Curve, Placement, Plan, RequestKind, batch, measure_curves, single
from loadtests.capacity.page import Measurement, fill, report
from loadtests.capacity.plot import draw
from loadtests.capacity.sizing import Assumptions
from tools.harness import crops
from tools.harness.report import conditions, write_report
from tools.harness.servers import PROJECT
from tools.harness.small_bundle import NAME as SMALL

REPORTS: Final = Path("reports") / "capacity"
DOCUMENT: Final = PROJECT / "docs" / "capacity.md"
PLOT: Final = PROJECT / "docs" / "images" / "capacity.svg"

SINGLES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)  # of the maximum rate
BATCHES: Final = (0.3, 0.6, 0.8, 0.9, 1.0, 1.2)
SHARED_SINGLES: Final = (0.2, 0.4, 0.6, 0.8, 1.0)
SHARED_BATCHES: Final = (0.6, 0.9, 1.1)
SHORT_QUEUE: Final = (0.5, 0.8, 1.0, 1.2, 1.5)
DEFAULTS: Final = Assumptions()


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--models", multiple=True, default=(DEFAULT_MODEL, SMALL), show_default=True, help="Bundles to measure.")
@click.option(
    "--device",
    "devices",
    type=click.Choice(get_args(Device)),
    multiple=True,
    default=("openvino", "cpu"),
    show_default=True,
    help="For the models that ship; openvino is bfloat16 where the processor has it, cpu is float32.",
)
@click.option("--seconds", type=click.FloatRange(0.5), default=6.0, show_default=True, help="Of load at each rate.")
@click.option("--batch", "size", type=click.IntRange(1, 16_384), default=256, show_default=True, help="Packed crops.")
@click.option("--p99-ms", default=250.0, show_default=True, help="Longest acceptable p99 of single crops: the knee.")
@click.option("--batch-p99-ms", default=5_000.0, show_default=True, help="The same for packed crops.")
@click.option("--document", is_flag=True, help="Regenerate tables and plot from the last report without measuring.")
@click.option("--peak", default=DEFAULTS.peak, show_default=True, help="Sizing: peak rate over daily mean.")
@click.option(
    "--load", default=DEFAULTS.load, show_default=True, help="Sizing: pod load at the peak, as a share of its knee."
)
@click.option("--machine-cores", default=DEFAULTS.machine_cores, show_default=True, help="Sizing: cores per machine.")
@click.option("--core-hour", default=DEFAULTS.core_hour, show_default=True, help="Sizing: price; use your own.")
@click.option(
    "--gpu-crops-per-second",
    default=DEFAULTS.gpu_crops_per_second,
    show_default=True,
    help="Sizing: use your GPU's, from `python -m loadtests.devices`.",
)
@click.option("--gpu-hour", default=DEFAULTS.gpu_hour, show_default=True, help="Sizing: price; use your own.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=REPORTS, show_default=True)
def main(
    *,
    models: tuple[str, ...],
    devices: tuple[Device, ...],
    seconds: float,
    size: int,
    p99_ms: float,
    batch_p99_ms: float,
    document: bool,
    output: Path,
    **assumptions: float,
) -> None:
    """Raise the load step by step beyond saturation, and report throughput and latency at each rate.

    Writes capacity.json and capacity.md, and the tables and the plot of docs/capacity.md. In the main curves the
    service has a core of its own; in the others it shares all cores with the load generator. Nothing else should run
    meanwhile. It takes about a quarter of an hour.
    """
    assumed = Assumptions(**assumptions)  # type: ignore[arg-type]  # click derives their types from the defaults
    file = output / "capacity.json"
    if document:
        if not file.exists():
            raise click.ClickException(f"there is no {file}; run python -m loadtests.capacity without --document first")
        found = TypeAdapter(Measurement).validate_json(file.read_bytes())
    else:
        if len(sched_getaffinity(0)) < 2:
            raise click.ClickException("the service needs a separate core, but this machine has only one")
        about = conditions(*map(crops.bundle, models), seconds=seconds, batch=size)
        limits: dict[RequestKind, float] = {"single": p99_ms, "packed": batch_p99_ms}
        curves = list(echo_curves(all_curves(models, devices, seconds, size, p99_ms)))
        found = Measurement(about, limits, curves)
    page = report(found, assumed)
    write_report(output, "capacity", dataclasses.asdict(found), page)
    draw(found.pinned, found.limits, PLOT)
    write_atomically(DOCUMENT, fill(DOCUMENT.read_text(), found, assumed))
    click.echo(page)


def all_curves(
    models: tuple[str, ...], devices: tuple[Device, ...], seconds: float, size: int, p99_ms: float
) -> Iterator[Curve]:
    """Curves on a separate core, on all cores with one worker and with one per core, and with a short queue.

    The first curve, of the first model on the first device, is the main one. Only curves on a separate core are
    measured on every device; the small model, which tells what serving costs, runs in float32.
    """
    cores = len(sched_getaffinity(0))
    separate = Placement(1, shared=False, workers=1)
    one, many = single(), batch(size)
    main: Curve | None = None
    for model in models:
        for device in devices_of(model, devices):
            plans = [Plan(one, SINGLES, seconds), Plan(many, BATCHES, seconds)]
            for curve in measure_curves(crops.bundle(model), separate, plans, device=device):
                main = main or curve
                yield curve
    for model in models:
        for workers in (1, cores):
            placement = Placement(cores, shared=True, workers=workers)
            plans = [Plan(one, SHARED_SINGLES, seconds / 2), Plan(many, SHARED_BATCHES, seconds / 2)]
            yield from measure_curves(crops.bundle(model), placement, plans, device=devices_of(model, devices)[0])
    if main:
        queue = max(1, round(main.best_point.crops_per_second * p99_ms / 1e3 / 2))
        plan = Plan(one, SHORT_QUEUE, seconds, max_rate=main.points[SINGLES.index(1.0)].offered)
        yield from measure_curves(crops.bundle(models[0]), separate, [plan], queue, devices[0])


def devices_of(model: str, devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """The devices that a model is measured on."""
    return ("cpu",) if model == SMALL else devices


def echo_curves(curves: Iterator[Curve]) -> Iterator[Curve]:
    """Pass the curves on, and print each to show progress."""
    for curve in curves:
        click.echo(f"{curve.model} ({curve.device}), {curve.kind}, {curve.placement.name}, queue {curve.queue}")
        for point in curve.points:
            click.echo(
                f"  {point.offered * curve.crops:>9,.1f} crops/s offered, {point.crops_per_second:>9,.1f} answered, "
                f"{point.refused:,} refused, {point.failed:,} failed, p50 {point.p50_ms} ms, p99 {point.p99_ms} ms, "
                f"{point.busy_cores:.2f} cores, {point.waiting:g} waiting"
            )
        yield curve


if __name__ == "__main__":
    main()
