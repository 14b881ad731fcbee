"""``python -m loadtests.bulk``: throughput of packed requests compared with the model without a service."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple, get_args

import click
import numpy as np
import pyarrow as pa

from eyestate.arrays import Pixels, Scores
from eyestate.execution import cores
from eyestate.media_types import ARROW, JSON, NPY
from eyestate.scorer import open_scorer
from eyestate.settings import Device
from tools.harness import crops
from tools.harness.load import Connection, LoadGenerator, http_request, losses, run, statuses, stop_after
from tools.harness.report import REPORTS, conditions, describe_conditions, table, write_report
from tools.harness.servers import Server, ServerError
from tools.harness.service import running_service
from tools.harness.sessions import BareScorers
from tools.harness.small_bundle import NAME as SMALL
from tools.harness.wrk import drive

SHORT: Final = {JSON: "JSON", NPY: "npy", ARROW: "Arrow"}
MODES: Final = ((NPY, NPY), (NPY, JSON), (ARROW, ARROW), (ARROW, JSON))  # formats of request and response
TARGET_SMALL: Final = 0.8  # of the bare scorers' throughput, in bulk
TARGET: Final = 0.95  # with a model that costs more than serving
SINGLE_CONNECTIONS: Final = 128
WARM_UP_SECONDS: Final = 1


@dataclass(frozen=True, slots=True)
class Mode:
    """How crops are sent: formats of request and response, crops per request, connections."""

    request: str
    response: str
    crops: int
    connections: int

    @property
    def name(self) -> str:
        """The formats, without the load."""
        return f"{self.request} → {self.response}"


class Load(NamedTuple):
    """Throughput, responses by status, and lost requests by cause."""

    crops_per_second: float
    statuses: dict[str, int]
    lost: dict[str, int]


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement of a mode; ``bare`` is the crops per second of the bare scorers around it."""

    mode: Mode
    load: Load
    bare: float

    @property
    def share(self) -> float:
        """Share of the bare scorers' throughput."""
        return self.load.crops_per_second / self.bare


@dataclass(frozen=True, slots=True)
class Row:
    """All rounds of a mode: medians, and the number of requests not answered with 200."""

    mode: Mode
    crops_per_second: int
    bare: int
    share: float
    failed: int


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@crops.model_option(SMALL)
@click.option("--device", type=click.Choice(get_args(Device)), default="cpu", show_default=True)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Of the service.")
@click.option("--crops", "sizes", type=click.IntRange(1, 16_384), multiple=True, default=(256, 1024, 4096))
@click.option("--connections", type=click.IntRange(1, 64), multiple=True, default=(1, 4), show_default=True)
@click.option("--side", type=click.IntRange(8, 4096), default=crops.SIDE, show_default=True, help="Of a crop.")
@click.option("--seconds", type=click.IntRange(1), default=2, show_default=True, help="Of load at each point.")
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=REPORTS, show_default=True)
def main(
    *,
    model: str,
    device: Device,
    workers: int,
    sizes: tuple[int, ...],
    connections: tuple[int, ...],
    side: int,
    seconds: int,
    rounds: int,
    output: Path,
) -> None:
    """Measure bulk and single requests against bare scorers with the same number of threads.

    Writes bulk-MODEL.json and bulk-MODEL.md. The bare scorers run at their best batch size before and after every
    point, so that interference on the machine affects both.
    """
    bundle = crops.bundle(model)
    threads = max(1, cores() // workers)
    bare = BareScorers(bundle, device, scorers=workers, threads=threads)
    batch = bare.best_batch(seconds / 4)
    scorer = open_scorer(bundle, device)
    settings = {"model": bundle.manifest.name, "device": bare.device, "workers": workers, "threads": threads}
    about = conditions(bundle, **settings, side=side, seconds=seconds, rounds=rounds, bare_batch=batch)
    points = []
    with running_service(bundle, device, workers, "bulk") as server:
        for _ in range(rounds):
            for content_type, accept in MODES:
                for size in sizes:
                    body, pixels = pack(content_type, size, side)
                    request = http_request("/v1/score/batch", body, content_type, accept)
                    run(check(server, request, scorer.score(pixels)))
                    for number in connections:
                        load = partial(by_generator, server, request, number, seconds, size)
                        mode = Mode(SHORT[content_type], SHORT[accept], size, number)
                        points.append(measure_around(bare, batch, seconds, mode, load))
            mode = Mode("JPEG", "JSON", 1, SINGLE_CONNECTIONS)
            points.append(measure_around(bare, batch, seconds, mode, partial(by_wrk, server, seconds)))
    rows = table_rows(points)
    result = {
        "about": about,
        "rows": [dataclasses.asdict(row) for row in rows],
        "points": [dataclasses.asdict(point) for point in points],
    }
    text = page(about, rows)
    write_report(output, f"bulk-{bundle.manifest.name}", result, text)
    click.echo("\n" + text)


def pack(content_type: str, number: int, side: int) -> tuple[bytes, Pixels]:
    """A body with that many crops, an eye with noise, and the crops, uint8 (number, side, side)."""
    pixels = crops.noisy_eyes(number, side)
    if content_type == NPY:
        file = io.BytesIO()
        np.save(file, pixels)
        return file.getvalue(), pixels
    batch = pa.record_batch({"image": pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes(), pixels


def unpack(content_type: str, body: bytes) -> Scores:
    """The scores in a response, float32 (N,)."""
    if content_type == JSON:
        return np.array([result["score"] for result in json.loads(body)["results"]], np.float32)
    if content_type == NPY:
        scores: Scores = np.load(io.BytesIO(body))
        return scores
    with pa.ipc.open_stream(body) as stream:
        return np.asarray(stream.read_all()["score"].to_numpy(), np.float32)


async def check(server: Server, request: bytes, expected: Scores) -> None:
    """Check that the response holds the scores of the crops in their order.

    Raises:
        ServerError: it does not.
    """
    connection = await Connection.open(server.port)
    response = await connection.request(request)
    connection.close()
    if response.status != 200:
        raise ServerError(f"the service responded {response.status}: {response.body[:200]!r}")
    scores = unpack(response.headers["content-type"].partition(";")[0], response.body)
    if scores.shape != expected.shape or np.abs(scores - expected).max() > 0.02:
        raise ServerError(
            f"the service returned {len(scores)} scores that differ from those of the {len(expected)} crops"
        )


def measure_around(bare: BareScorers, batch: int, seconds: int, mode: Mode, load: Callable[[], Load]) -> Point:
    """Measure a load between two runs of the bare scorers, each half as long, so that interference affects both."""
    before = bare.crops_per_second(batch, seconds / 2)
    found = load()
    after = bare.crops_per_second(batch, seconds / 2)
    point = Point(mode, found, (before + after) / 2)
    click.echo(
        f"{mode.name}, {mode.crops:,} crops, {mode.connections} connections: {found.crops_per_second:,.0f} crops/s, "
        f"bare {point.bare:,.0f}, {point.share:.2f}, {found.statuses} {found.lost or 'none lost'}"
    )
    return point


def by_generator(server: Server, request: bytes, connections: int, seconds: float, crops_each: int) -> Load:
    """Keep that many connections busy with one request, after a warm-up."""

    async def busy(duration: float) -> LoadGenerator:
        generator = LoadGenerator(server.port, [request])
        stop = asyncio.Event()
        await asyncio.gather(generator.closed_loop(connections, stop), stop_after(duration, stop))
        generator.close()
        return generator

    run(busy(WARM_UP_SECONDS))
    outcomes = run(busy(seconds)).outcomes
    elapsed_seconds = max(outcome.sent + outcome.seconds for outcome in outcomes) - min(
        outcome.sent for outcome in outcomes
    )
    answered = statuses(outcomes)
    return Load(answered.get("200", 0) * crops_each / elapsed_seconds, answered, losses(outcomes))


def by_wrk(server: Server, seconds: int) -> Load:
    """Single requests with one JPEG each."""
    for duration in (WARM_UP_SECONDS, seconds):
        load, _ = drive(
            f"{server.url}/v1/score",
            crops.jpeg(crops.eye()),
            "image/jpeg",
            connections=SINGLE_CONNECTIONS,
            seconds=duration,
            observe=lambda: None,
        )
    return Load(load.requests_per_second, load.statuses, {name: n for name, n in load.errors.items() if n})


def table_rows(points: Sequence[Point]) -> list[Row]:
    """One row per mode, in the order first measured."""
    by_way: dict[Mode, list[Point]] = {}
    for point in points:
        by_way.setdefault(point.mode, []).append(point)
    return [
        Row(
            mode,
            round(median(point.load.crops_per_second for point in found)),
            round(median(point.bare for point in found)),
            round(median(point.share for point in found), 3),
            sum(
                sum(point.load.lost.values()) + sum(n for status, n in point.load.statuses.items() if status != "200")
                for point in found
            ),
        )
        for mode, found in by_way.items()
    ]


def page(about: dict[str, Any], rows: Sequence[Row]) -> str:
    """The measurement as Markdown."""
    best: dict[str, Row] = {}
    for row in rows:
        if row.mode.name not in best or row.share > best[row.mode.name].share:
            best[row.mode.name] = row
    small = about["settings"]["model"] == SMALL
    return "\n".join(
        [
            f"# Bulk requests, `{about['settings']['model']}`\n",
            describe_conditions(about) + "\n",
            "Crops per second over HTTP as a share of the throughput of the bare scorer at its best batch size, with "
            "the same number of threads, measured before and after each point. The load generator runs on the same "
            "cores; the service resizes the crops, the bare scorer is given them at its own size. Medians over the "
            "rounds. The first table has the best load of each mode.\n",
            table(
                ["Request → response", "Target", "Best share", "Met"],
                [
                    (name, None, f"{row.share:.2f}", None)
                    if small and row.mode.crops == 1
                    else (name, *met(row.share, TARGET_SMALL if small else TARGET))
                    for name, row in best.items()
                ],
            ),
            table(
                ["Request → response", "Crops", "Connections", "Crops/s", "Bare", "Share", "Failed"],
                [
                    (
                        row.mode.name,
                        f"{row.mode.crops:,}",
                        row.mode.connections,
                        f"{row.crops_per_second:,}",
                        f"{row.bare:,}",
                        f"{row.share:.2f}",
                        row.failed or None,
                    )
                    for row in rows
                ],
            ),
        ]
    )


def met(share: float, wanted: float) -> tuple[str, str, str]:
    """Target, result, and whether it is met, for a table."""
    return f"≥ {wanted:g}", f"{share:.2f}", "yes" if share >= wanted else "**no**"


if __name__ == "__main__":
    main()
