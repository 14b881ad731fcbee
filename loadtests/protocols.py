"""``python -m loadtests.protocols``: the inference protocol over gRPC compared with its binary form over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final, get_args

import click
import grpc
import numpy as np

from eyestate.bundle import DEFAULT_MODEL, Bundle, CascadeBundle
from eyestate.media_types import OCTET_STREAM
from eyestate.server.openinference.messages import SERVICE, message
from eyestate.settings import Device
from tools.harness import crops
from tools.harness.load import Connection, run
from tools.harness.report import REPORTS, conditions, describe_conditions, table, write_report
from tools.harness.servers import Server, ServerError, free_port
from tools.harness.service import running_service

Ask = Callable[[], Awaitable[None]]  # one request, on a connection of its own

WARM_UP_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds of one way to ask; times in milliseconds, of which ``cpu`` is the service's a request."""

    protocol: str
    crops: int
    connections: int
    requests_per_second: float
    p50: float
    p99: float
    cpu: float


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@crops.model_option(DEFAULT_MODEL)
@click.option("--device", type=click.Choice(get_args(Device)), default="auto", show_default=True)
@click.option("--crops", "sizes", type=click.IntRange(1, 16_384), multiple=True, default=(1, 64, 1024))
@click.option("--connections", type=click.IntRange(1, 256), multiple=True, default=(1, 16), show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=3, show_default=True, help="Of load at each point.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=REPORTS, show_default=True)
def main(
    *,
    model: str,
    device: Device,
    sizes: tuple[int, ...],
    connections: tuple[int, ...],
    seconds: float,
    rounds: int,
    output: Path,
) -> None:
    """Send the same tensors over both protocols in turn, to one worker, and write protocols.json and .md.

    Both clients are Python's and take part of the same cores, gRPC's the larger; the service's CPU time for a request
    is free of that.
    """
    bundle = crops.bundle(model)
    points: dict[tuple[str, int, int], list[Row]] = {}
    port = free_port()
    with running_service(bundle, device, 1, "protocols", EYESTATE_GRPC_PORT=str(port)) as server:
        for _ in range(rounds):
            for size in sizes:
                for number in connections:
                    for row in run(compared(bundle, server, port, size=size, connections=number, seconds=seconds)):
                        points.setdefault((row.protocol, size, number), []).append(row)
                        click.echo(f"{row.protocol}, {size:,} crops, {number} connections: {described(row)}")
    about = conditions(bundle, device=device, workers=1, seconds=seconds, rounds=rounds)
    rows = [middle(found) for found in points.values()]
    text = page(about, rows)
    write_report(output, "protocols", {"about": about, "rows": [dataclasses.asdict(row) for row in rows]}, text)
    click.echo("\n" + text)


async def compared(
    bundle: Bundle | CascadeBundle, server: Server, port: int, *, size: int, connections: int, seconds: float
) -> list[Row]:
    """One measurement of each protocol.

    Raises:
        ServerError: a request was not answered with scores.
    """
    pixels = crops.noisy_eyes(size, crops.SIDE)
    name = bundle.manifest.name
    http = http_request(name, pixels)
    opened = [await Connection.open(server.port) for _ in range(connections)]
    rows = [await measured("HTTP, binary", [asking_http(each, http) for each in opened], server, size, seconds)]
    for connection in opened:
        connection.close()
    options = [("grpc.use_local_subchannel_pool", 1)]  # or all channels would share one connection
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(connections)]
    asked = grpc_request(name, pixels)
    rows.append(await measured("gRPC", [asking_grpc(channel, asked) for channel in channels], server, size, seconds))
    for channel in channels:
        await channel.close()
    return rows


def http_request(model: str, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """A request by the binary tensor extension, with binary answers."""
    document = json.dumps(
        {
            "inputs": [
                {
                    "name": "crops",
                    "datatype": "UINT8",
                    "shape": pixels.shape,
                    "parameters": {"binary_data_size": pixels.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    head = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        "Host: 127.0.0.1",
        f"Content-Type: {OCTET_STREAM}",
        f"Inference-Header-Content-Length: {len(document)}",
        f"Content-Length: {len(document) + pixels.nbytes}",
    ]
    return "\r\n".join([*head, "\r\n"]).encode() + document + pixels.tobytes()


def grpc_request(model: str, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    """The same as a message, as Triton's client makes it."""
    asked = message("ModelInferRequest")(model_name=model, raw_input_contents=[pixels.tobytes()])
    asked.inputs.add(name="crops", datatype="UINT8", shape=pixels.shape)
    return asked


def asking_http(connection: Connection, request: bytes) -> Ask:
    """Ask on that connection."""

    async def ask() -> None:
        response = await connection.request(request)
        if response.status != 200:
            raise ServerError(f"the service responded {response.status}: {response.body[:200]!r}")

    return ask


def asking_grpc(channel: grpc.aio.Channel, request: Any) -> Ask:
    """Ask on that channel."""
    call = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=message("ModelInferRequest").SerializeToString,
        response_deserializer=message("ModelInferResponse").FromString,
    )

    async def ask() -> None:
        try:
            await call(request)
        except grpc.aio.AioRpcError as error:
            raise ServerError(f"the service responded {error.code().name}: {error.details()}") from None

    return ask


async def measured(protocol: str, connections: Sequence[Ask], server: Server, size: int, seconds: float) -> Row:
    """Keep all connections busy, after a warm-up."""
    await busy(connections, WARM_UP_SECONDS)
    before = cpu_seconds(server)
    taken = sorted(await busy(connections, seconds))
    spent = cpu_seconds(server) - before
    p50, p99 = (1_000 * taken[int(share * (len(taken) - 1))] for share in (0.5, 0.99))
    return Row(protocol, size, len(connections), len(taken) / seconds, p50, p99, 1_000 * spent / len(taken))


async def busy(connections: Sequence[Ask], seconds: float) -> list[float]:
    """The seconds of each request."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def keep(ask: Ask) -> None:
        while (started := time.perf_counter()) < end:
            await ask()
            taken.append(time.perf_counter() - started)

    await asyncio.gather(*map(keep, connections))
    return taken


def cpu_seconds(server: Server) -> float:
    """Of all processes of the service so far."""
    return sum(sum(process.cpu_times()[:2]) for process in server.processes())


def middle(rows: Sequence[Row]) -> Row:
    """The medians of several measurements of the same."""
    first = rows[0]
    figures = {
        name: round(median(getattr(row, name) for row in rows), 3)
        for name in ("requests_per_second", "p50", "p99", "cpu")
    }
    return dataclasses.replace(first, **figures)


def described(row: Row) -> str:
    """The figures of a row."""
    return f"{row.requests_per_second:,.0f} requests/s, p50 {row.p50:.1f} ms, p99 {row.p99:.1f}, CPU {row.cpu:.2f}"


def page(about: dict[str, Any], rows: Sequence[Row]) -> str:
    """The measurement as Markdown."""
    http = {(row.crops, row.connections): row for row in rows if row.protocol != "gRPC"}
    return "\n".join(
        [
            "# The inference protocol over gRPC and over HTTP\n",
            describe_conditions(about) + "\n",
            "The same UINT8 tensors, in binary form, in turn over both. The clients run on the same cores; CPU is the "
            "service's alone. The ratios are those of gRPC to HTTP: above 1 more requests, below 1 less CPU time.\n",
            table(
                ["Protocol", "Crops", "Connections", "Requests/s", "ratio", "p50, ms", "p99, ms", "CPU, ms", "ratio"],
                [
                    (
                        row.protocol,
                        f"{row.crops:,}",
                        row.connections,
                        f"{row.requests_per_second:,.0f}",
                        f"{row.requests_per_second / http[row.crops, row.connections].requests_per_second:.2f}",
                        f"{row.p50:.1f}",
                        f"{row.p99:.1f}",
                        f"{row.cpu:.2f}",
                        f"{row.cpu / http[row.crops, row.connections].cpu:.2f}",
                    )
                    for row in rows
                ],
            ),
        ]
    )


if __name__ == "__main__":
    main()
