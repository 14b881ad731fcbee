"""``python -m loadtests.footprint``: resources of one pod: time to ready, peak memory, files in /tmp.

A pod's memory limit must cover the worst case a client can cause: many of the largest allowed bodies at a time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, get_args

import click
import numpy as np

from eyestate.images import MAX_SIDE
from eyestate.media_types import NPY
from eyestate.server.uploads import MAX_BODY_BYTES
from eyestate.settings import Device
from tools.harness import crops
from tools.harness.load import LoadGenerator, http_request, run, statuses, stop_after
from tools.harness.report import REPORTS, conditions, describe_conditions, table, write_report
from tools.harness.servers import MIB, SCRATCH, Server, ServerError, tail
from tools.harness.service import running_service

_SAMPLE_SECONDS: Final = 0.05
BATCH: Final = 2_048  # twice as many as the client has in flight
LARGE_SIDE: Final = MAX_SIDE
PACKED_SIDE: Final = 64


@dataclass(frozen=True, slots=True)
class Load:
    """A request that is sent repeatedly over that many connections."""

    name: str
    request: bytes
    connections: int


@dataclass(slots=True)
class Row:
    """Peaks under a load: memory and /tmp in MiB, and responses by status."""

    load: str
    memory: float = 0
    tmp: float = 0
    statuses: dict[str, int] = dataclasses.field(default_factory=dict)


def loads() -> tuple[Load, ...]:
    """From idle to the worst case."""
    single = http_request("/v1/score", crops.jpeg(crops.eye()))
    packed = io.BytesIO()
    np.save(packed, np.zeros((MAX_BODY_BYTES // PACKED_SIDE**2 - 1, PACKED_SIDE, PACKED_SIDE), np.uint8))
    large = crops.jpeg(np.random.default_rng(0).integers(0, 256, (LARGE_SIDE, LARGE_SIDE), np.uint8))
    return (
        Load("idle", single, 0),
        Load("single crops, 16 connections", single, 16),
        Load("single crops, 256 connections", single, 256),
        Load("bodies of 64 MiB, 8 connections", http_request("/v1/score/batch", packed.getvalue(), NPY), 8),
        Load(f"images of {LARGE_SIDE:,} × {LARGE_SIDE:,}, 16 connections", http_request("/v1/score", large), 16),
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@crops.model_option()
@click.option("--device", type=click.Choice(get_args(Device)), default="auto", show_default=True)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Of the service.")
@click.option("--seconds", type=click.FloatRange(1), default=8, show_default=True, help="Of each load.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=REPORTS, show_default=True)
def main(*, model: str, device: Device, workers: int, seconds: float, output: Path) -> None:
    """Measure the resources of one pod, for its requests and limits, and write footprint-MODEL.json and .md."""
    bundle = crops.bundle(model)
    about = conditions(bundle, model=bundle.manifest.name, device=device, workers=workers, seconds=seconds)
    with tempfile.TemporaryDirectory() as tmp:
        home = {"HOME": tmp, "TMPDIR": tmp, "BENTOML_HOME": f"{tmp}/bentoml"}
        started, began = time.monotonic(), time.time()
        with running_service(bundle, device, workers, "footprint", **home) as server:
            ready = round(time.monotonic() - started, 1)
            imports = round(initialised_at(server.log) - began, 1)
            rows = [measure(server, Path(tmp), load, seconds) for load in loads()]
            client = batch_client(server, Path(tmp))
    if not rows[-1].statuses.get("200"):
        raise ServerError(f"no large image was scored: {rows[-1].statuses}")
    rows.append(client)
    figures = [(row.load, f"{row.memory:,.0f}", f"{row.tmp:.1f}", format_statuses(row.statuses)) for row in rows]
    text = table(["Load", "Memory, MiB", "/tmp, MiB", "Responses"], figures)  # noqa: S108
    page = f"# Footprint of one pod with `{bundle.manifest.name}`\n\nReady after {ready:g} s: {imports:g} s to "
    page += "import the packages and verify the model, the rest to open, compile and try its sessions. "
    page += f"Memory is the resident set of all processes.\n\n{text}\n"
    page += f"`python -m loadtests.footprint --model {model}`. {describe_conditions(about)}\n"
    write_report(
        output,
        f"footprint-{bundle.manifest.name}",
        {"about": about, "ready_seconds": ready, "import_seconds": imports, "rows": [*map(dataclasses.asdict, rows)]},
        page,
    )
    click.echo(page)


def initialised_at(log: Path) -> float:
    """When BentoML had imported the service in its last worker, in seconds since the epoch, by the service's log."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    times = [line["time"] for line in lines if line["message"].endswith(" initialized")]
    return datetime.fromisoformat(times[-1]).timestamp()


def measure(server: Server, tmp: Path, load: Load, seconds: float) -> Row:
    """Run a load while tracking the server's peaks."""
    row = Row(load.name)
    with peaks_tracked(server, tmp, row):
        if load.connections:
            row.statuses = run(_drive(server.port, load, seconds))
        else:
            time.sleep(seconds)
    return row


def batch_client(server: Server, tmp: Path) -> Row:
    """Run `eyestate batch` while tracking its peaks.

    Raises:
        ServerError: it did not score all crops.
    """
    row = Row(f"`eyestate batch`, {BATCH:,} crops: the client")
    archive, image = tmp / "crops.zip", crops.jpeg(crops.eye())
    with zipfile.ZipFile(archive, "w") as files:
        for number in range(BATCH):
            files.writestr(f"{number}.jpg", image)
    log = SCRATCH / "logs" / "footprint-batch.log"
    eyestate = Path(sys.executable).with_name("eyestate")
    command: list[str | Path] = [eyestate, "batch", archive, "--endpoint", server.url]
    with (
        log.open("wb") as output,
        subprocess.Popen([*command, "--output", tmp / "scores"], stdout=output, stderr=subprocess.STDOUT) as process,  # noqa: S603
        peaks_tracked(Server(process, server.port, log), tmp / "scores", row),
    ):
        code = process.wait()
    if code:
        raise ServerError(f"the batch client exited with {code}:\n{tail(log)}")
    return row


@contextmanager
def peaks_tracked(server: Server, tmp: Path, row: Row) -> Iterator[None]:
    """Track peak memory and /tmp usage until the block ends."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLE_SECONDS):
            row.memory = max(row.memory, server.memory().rss)
            row.tmp = max(row.tmp, sum(file.stat().st_size for file in tmp.rglob("*") if file.is_file()) / MIB)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def _drive(port: int, load: Load, seconds: float) -> dict[str, int]:
    generator = LoadGenerator(port, [load.request])
    stop = asyncio.Event()
    await asyncio.gather(stop_after(seconds, stop), generator.closed_loop(load.connections, stop))
    generator.close()
    return statuses(generator.outcomes)


def format_statuses(answers: dict[str, int]) -> str:
    """Statuses for a table cell."""
    return ", ".join(f"{count:,} × {status}" for status, count in answers.items()) or "–"


if __name__ == "__main__":
    main()
