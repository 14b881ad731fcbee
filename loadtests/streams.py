"""``python -m loadtests.streams``: memory and latency of one worker with many idle streams and some active ones."""

from __future__ import annotations

import asyncio
import time
from asyncio import StreamReader, StreamWriter
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Event, Ping, Request, TextMessage

from eyestate.bundle import load_model
from tools.harness.report import REPORTS, conditions, describe_conditions, write_report
from tools.harness.servers import PROJECT, Server
from tools.harness.service import running_service
from tools.speed_tables import streams_table

FRAMES: Final = {
    "crop": PROJECT / "examples" / "open.jpg",
    "face": PROJECT / "docs" / "images" / "face.jpg",
}
_OPENED_AT_ONCE: Final = 50
_SETTLING_SECONDS: Final = 3.0


class Client:
    """A stream, as its client."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._ws = WSConnection(ConnectionType.CLIENT)

    @classmethod
    async def opened(cls, port: int, mode: str) -> Client:
        """Open a stream."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        client._write(Request(host="127.0.0.1", target=f"/v1/stream?mode={mode}"))
        event = await client._event()
        if not isinstance(event, AcceptConnection):
            raise click.ClickException(f"a stream was refused: {event}")
        return client

    async def ask(self, frame: bytes) -> float:
        """The seconds until a frame is answered."""
        started = time.perf_counter()
        self._write(BytesMessage(frame))
        answer = await self._event()
        if not isinstance(answer, TextMessage) or '"error"' in answer.data:
            raise click.ClickException(f"a frame was not answered: {answer}")
        return time.perf_counter() - started

    async def idle(self) -> None:
        """Answer the service's pings until cancelled."""
        raise click.ClickException(f"an idle stream was told {await self._event()}")

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def _event(self) -> Event:
        while True:
            for event in self._ws.events():
                if not isinstance(event, Ping):
                    return event
                self._write(event.response())
            self._ws.receive_data(await self._reader.read(65_536) or None)

    def _write(self, event: Event) -> None:
        self._writer.write(self._ws.send(event))


async def paced(client: Client, frame: bytes, rate: float, seconds: float, start: float) -> list[float]:
    """The latencies of frames that are sent at a rate, from a moment of the loop's clock on."""
    loop, found = asyncio.get_running_loop(), []
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, start + number / rate - loop.time()))
        found.append(await client.ask(frame))
    return found


async def measured(server: Server, mode: str, *, idle: int, active: int, rate: float, seconds: float) -> dict[str, Any]:
    """Memory without streams, with idle ones and with active ones besides, and the latencies of these."""
    frame = FRAMES[mode].read_bytes()
    first = await Client.opened(server.port, mode)
    await first.ask(frame)  # what is loaded when somebody opens a stream
    first.close()
    await asyncio.sleep(_SETTLING_SECONDS)
    memory = [server.memory().pss]
    waiting: list[Client] = []
    while len(waiting) < idle:
        few = min(_OPENED_AT_ONCE, idle - len(waiting))
        waiting += await asyncio.gather(*(Client.opened(server.port, mode) for _ in range(few)))
    pinged = [asyncio.create_task(client.idle()) for client in waiting]
    await asyncio.sleep(_SETTLING_SECONDS)
    memory.append(server.memory().pss)
    busy = [await Client.opened(server.port, mode) for _ in range(active)]
    start = asyncio.get_running_loop().time() + 0.1
    played = asyncio.gather(
        *(paced(client, frame, rate, seconds, start + place / active / rate) for place, client in enumerate(busy))
    )
    await asyncio.sleep(seconds / 2)
    memory.append((await asyncio.to_thread(server.memory)).pss)
    began = time.perf_counter()
    latencies = np.concatenate(await played)
    for task in pinged:
        if task.done():
            task.result()
        task.cancel()
    for client in (*waiting, *busy):
        client.close()
    return {
        "mode": mode,
        "frames": len(latencies),
        "frames_per_second": round(len(latencies) / (seconds / 2 + time.perf_counter() - began), 1),
        "p50_ms": round(1000 * float(np.percentile(latencies, 50)), 1),
        "p99_ms": round(1000 * float(np.percentile(latencies, 99)), 1),
        "memory_mib": [round(each) for each in memory],
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", help="Model to serve.  [default: the service's]")
@click.option("--idle", type=click.IntRange(0), default=1_000, show_default=True, help="Streams that send nothing.")
@click.option("--active", type=click.IntRange(1), default=100, show_default=True, help="Streams that send crops.")
@click.option("--rate", type=click.FloatRange(0.1), default=10.0, show_default=True, help="Crops a second of each.")
@click.option(
    "--faces", type=click.IntRange(0), default=2, show_default=True, help="Streams of photos, measured apart."
)
@click.option("--seconds", type=click.FloatRange(1), default=20.0, show_default=True, help="How long to send.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=REPORTS, show_default=True)
def main(*, model: str | None, idle: int, active: int, rate: float, faces: int, seconds: float, output: Path) -> None:
    """Open streams at a service of one worker, measure its memory and the latency of answers, and write a report."""
    bundle = load_model(model)
    rows = []
    with running_service(bundle, "auto", 1, "streams", EYESTATE_DRAIN="0") as server:
        rows.append(
            asyncio.run(measured(server, "crop", idle=idle, active=active, rate=rate, seconds=seconds))
            | {"streams": active}
        )
        if faces:
            rows.append(
                asyncio.run(measured(server, "face", idle=0, active=faces, rate=rate, seconds=seconds))
                | {"streams": faces}
            )
    about = conditions(bundle, idle=idle, active=active, rate=rate, faces=faces, seconds=seconds)
    page = (
        f"# Streams\n\nOne worker. Beside the streams of crops there are {idle:,} idle ones; each active stream sends "
        f"{rate:g} frames a second, one after the other is answered. Memory is the PSS of all processes.\n\n"
        f"{streams_table(rows)}\n"
        f"`python -m loadtests.streams`. {describe_conditions(about)}\n"
    )
    write_report(output, "streams", {"about": about, "rows": rows}, page)
    click.echo(page)


if __name__ == "__main__":
    main()
