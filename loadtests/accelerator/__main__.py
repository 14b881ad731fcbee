"""``python -m loadtests.accelerator --device cuda``: sessions and service on one device, in one short table.

It needs the packages of ``requirements/serve-gpu.txt`` and psutil, and takes PyTorch's figure where that has CUDA.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args

import click
import numpy as np

from eyestate.arrays import Pixels, Scores
from eyestate.bundle import Bundle, CascadeBundle
from eyestate.engine import Engine
from eyestate.execution import FORMS, Form, on_gpu, open_session
from eyestate.gpu import FixedSession
from eyestate.gpu_graph import halved
from eyestate.media_types import NPY
from eyestate.settings import Device
from loadtests.accelerator import gpu_use
from loadtests.accelerator.quiet import stderr_in
from loadtests.bulk import by_generator, pack
from tools.harness import crops
from tools.harness.load import LoadGenerator, http_request, percentiles_ms, run, statuses, stop_after
from tools.harness.report import REPORTS, conditions, describe_conditions, table, write_report
from tools.harness.servers import SCRATCH, Server
from tools.harness.service import running_service

MODELS: Final = ("final_best", "cascade", "final_best_lite")
SINGLES: Final = (1, 64, 256, 1_024)  # connections
PACKED: Final = (1, 4, 16)  # requests at a time
PACKED_CROPS: Final = 8_192  # in a request
FORM_SIZES: Final = (1, 64, 256, 1_024)  # batch sizes that are measured in each form


@dataclass
class Figures:
    """Rows of the table: what was measured, and where."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    packed: dict[str, float] = field(default_factory=dict)  # crops per second at best, by model

    def add(self, what: str, where: str, figure: str) -> None:
        """Note a figure, and say it."""
        self.rows.append((what, where, figure))
        click.echo(f"{what}, {where}: {figure}")

    def compare_models(self) -> None:
        """Note which model takes the most packed crops: what the default on this device should be."""
        if len(self.packed) > 1:
            first, *others = sorted(self.packed, key=lambda name: -self.packed[name])
            times = ", ".join(f"{self.packed[first] / self.packed[name]:.1f} × `{name}`" for name in others)
            self.add("quickest model", "packed crops", f"`{first}`, {times}")


@dataclass(frozen=True)
class Plan:
    """Seconds at each point, loads, and the time at which no other point is begun."""

    device: Device
    seconds: float
    singles: tuple[int, ...]
    packed: tuple[int, ...]
    packed_crops: int
    until: float

    def is_over(self) -> bool:
        """Whether that time has come."""
        return time.monotonic() > self.until


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--device", type=click.Choice(get_args(Device)), default="cuda", show_default=True)
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.05), default=4, show_default=True, help="At each point.")
@click.option("--minutes", type=click.FloatRange(0.01), default=5.5, show_default=True, help="Then nothing is begun.")
@click.option("--connections", "singles", type=click.IntRange(1), multiple=True, default=SINGLES, show_default=True)
@click.option("--at-a-time", "packed", type=click.IntRange(1), multiple=True, default=PACKED, show_default=True)
@click.option("--crops", "packed_crops", type=click.IntRange(1, 16_384), default=PACKED_CROPS, show_default=True)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=REPORTS, show_default=True)
def main(
    *,
    device: Device,
    models: tuple[str, ...],
    seconds: float,
    minutes: float,
    singles: tuple[int, ...],
    packed: tuple[int, ...],
    packed_crops: int,
    output: Path,
) -> None:
    """Measure the service, and the networks without it, and write accelerator-DEVICE.json and .md.

    What libraries write to stderr goes to a file, so that the table is what is seen last.
    """
    plan = Plan(device, seconds, singles, packed, packed_crops, time.monotonic() + 60 * minutes)
    bundles = [crops.bundle(model) for model in models]
    networks = {network.manifest.name: network for bundle in bundles for network in crops.networks(bundle)}
    figures = Figures()
    log = SCRATCH / "logs" / "accelerator.log"
    click.echo(f"what libraries say goes to {log}")
    with stderr_in(log):
        for bundle in bundles:
            measure_service(bundle, plan, figures)
        for name, network in networks.items():
            measure_network(network, name, plan, figures)
    figures.compare_models()
    about = conditions(*bundles, device=device, seconds=seconds, crops=packed_crops)
    text = table(["Measured", "Where", "Figure"], figures.rows)
    page = f"# One device, `{device}`\n\n{describe_conditions(about)}\n\n{text}"
    write_report(output, f"accelerator-{device}", {"about": about, "rows": figures.rows}, page)
    click.echo("\n" + text)


def measure_network(network: Bundle, name: str, plan: Plan, figures: Figures) -> None:
    """Crops per second of a network by batch size: as the service opens it, in each form of a GPU, and in PyTorch."""
    if plan.is_over():
        return
    started = time.perf_counter()
    engine = Engine(network, plan.device)
    figures.add(name, "seconds to open", f"{time.perf_counter() - started:.1f}")
    side = network.manifest.input.side
    small = crops.SIDE if engine.resizes else side
    speeds = {size: speed(engine.run, size, small, plan.seconds / 4) for size in engine.sizes}
    figures.add(name, f"{engine.device}, as served, crops of {small} px", by_size(speeds))
    eyes = crops.noisy_eyes(64, side)
    difference = float(np.abs(engine.run(eyes) - Engine(network, "cpu").run(eyes)).max())
    figures.add(name, "largest difference from the CPU's scores", f"{difference:.4f}")
    if not on_gpu(engine.device):
        return
    for form in FORMS:
        with ThreadPoolExecutor(1) as thread:  # CUDA graphs belong to the thread that they were captured in
            found = thread.submit(form_speeds, network, form, plan).result()
        figures.add(name, f"float16 {form.half}, CUDA graph {form.graph}, {side} px", by_size(found))
    if plan.is_over():
        return
    # In a process of its own, since it brings libraries of CUDA of its own.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        found = process.submit(torch_speeds, network.content, side, FORM_SIZES, plan.seconds / 4).result()
    figures.add(name, f"PyTorch, float16, channels last, CUDA graph, {side} px", by_size(found))


def torch_speeds(content: bytes, side: int, sizes: Sequence[int], seconds: float) -> dict[int, float]:
    """Crops per second of a network by batch size in PyTorch; nothing where that is missing or has no GPU."""
    try:
        import torch  # noqa: PLC0415  # may be missing

        from loadtests.accelerator.torch_network import crops_per_second  # noqa: PLC0415
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    return {size: crops_per_second(content, crops.noisy_eyes(size, side), seconds) for size in sizes}


def form_speeds(network: Bundle, form: Form, plan: Plan) -> dict[int, float]:
    """Crops per second by batch size in one form; what does not work in it is left out."""
    content = halved(network.content) if form.half else network.content
    side = network.manifest.input.side
    speeds = {}
    for size in FORM_SIZES:
        if plan.is_over():
            break
        try:
            session, _ = open_session(network.onnx, "cuda", batch=size, content=content, form=form)
            run_it = FixedSession(session, network.manifest, size)
            speeds[size] = speed(run_it, size, side, plan.seconds / 4)
        except Exception as error:
            click.echo(f"{form} at {size}: {str(error)[-200:]}")
            break
    return speeds


def speed(infer: Callable[[Pixels], Scores], size: int, side: int, seconds: float) -> float:
    """Crops per second with batches of that size, after two to warm up."""
    batch = crops.noisy_eyes(size, side)
    for _ in range(2):
        infer(batch)
    count, started = 0, time.perf_counter()
    while count == 0 or time.perf_counter() < started + seconds:
        infer(batch)
        count += 1
    return count * size / (time.perf_counter() - started)


def by_size(speeds: dict[int, float]) -> str:
    """Crops per second by batch size, in a cell."""
    return ", ".join(f"{size:,}: {found:,.0f}" for size, found in speeds.items()) + " crops/s" if speeds else "–"


def measure_service(bundle: Bundle | CascadeBundle, plan: Plan, figures: Figures) -> None:
    """Single and packed requests to a service, its memory, and the GPU's."""
    if plan.is_over():
        return
    name = f"service, `{bundle.manifest.name}`"
    started = time.perf_counter()
    with running_service(bundle, plan.device, 1, f"accelerator-{bundle.manifest.name}") as server:
        figures.add(name, "seconds until ready", f"{time.perf_counter() - started:.1f}")
        for connections in plan.singles:
            if not plan.is_over():
                figures.add(name, f"single crops, {connections:,} connections", singles(server, connections, plan))
        body, _ = pack(NPY, plan.packed_crops, crops.SIDE)
        request = http_request("/v1/score/batch", body, NPY, NPY)
        for at_a_time in plan.packed:
            if plan.is_over():
                break
            with gpu_use.watched() as use:
                load = by_generator(server, request, at_a_time, plan.seconds, plan.packed_crops)
            busy = "" if use.mean_busy is None else f", GPU busy {use.mean_busy:.0f} %, {use.most_memory:,.0f} MiB"
            others = {status: n for status, n in load.statuses.items() if status != "200"} | load.lost
            figure = f"{load.crops_per_second:,.0f} crops/s{busy}{f', {others}' if others else ''}"
            figures.add(name, f"{plan.packed_crops:,} packed crops, {at_a_time} at a time", figure)
            best = figures.packed.get(bundle.manifest.name, 0.0)
            figures.packed[bundle.manifest.name] = max(best, load.crops_per_second)
        figures.add(name, "memory of its processes", f"{server.memory().pss:,.0f} MiB")


def singles(server: Server, connections: int, plan: Plan) -> str:
    """Requests per second, and their times, with a single crop each."""
    request = http_request("/v1/score", crops.jpeg(crops.eye()))

    async def busy() -> LoadGenerator:
        generator = LoadGenerator(server.port, [request])
        stop = asyncio.Event()
        await asyncio.gather(generator.closed_loop(connections, stop), stop_after(plan.seconds, stop))
        generator.close()
        return generator

    outcomes = run(busy()).outcomes
    answered = statuses(outcomes)
    times = percentiles_ms(outcomes, lambda outcome: outcome.status == 200)
    if not times:
        return f"none answered: {answered}"
    others = {status: n for status, n in answered.items() if status != "200"}
    return (
        f"{answered['200'] / plan.seconds:,.0f} req/s, p50 {times['p50']} ms, p99 {times['p99']} ms, "
        f"longest {times['max']} ms{f', {others}' if others else ''}"
    )


if __name__ == "__main__":
    main()
