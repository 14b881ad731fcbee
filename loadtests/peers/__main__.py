"""``python -m loadtests.peers``: requests/s, latency, errors and memory of every server in one run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, get_args

import click

from eyestate.execution import cores
from eyestate.scorer import open_scorer
from eyestate.settings import Device
from loadtests.peers.environments import programs
from loadtests.peers.servers import PEERS, Peer
from loadtests.peers.tables import Point, page, ratios, rows, targets
from tools.harness import crops
from tools.harness.report import REPORTS, conditions, write_report
from tools.harness.servers import SCRATCH, Server, ServerError, running_server
from tools.harness.small_bundle import NAME as SMALL
from tools.harness.wrk import drive

WARM_UP_SECONDS: Final = 2
WARM_UP_CONNECTIONS: Final = 16
SCORE_TOLERANCE: Final = 0.002  # two of the peers decode with Pillow, which may round pixels differently
NAMES: Final = [peer.name for peer in PEERS]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@crops.model_option(SMALL)
@click.option(
    "--device",
    type=click.Choice(get_args(Device)),
    default="cpu",
    show_default=True,
    help="EYESTATE_DEVICE of every server.",
)
@click.option("--connections", type=click.IntRange(1, 1024), multiple=True, default=(1, 16, 64, 256), show_default=True)
@click.option("--seconds", type=click.IntRange(1), default=5, show_default=True, help="Of load at each point.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Each in a different order.")
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Of every server: its workers, and its HTTP server if that is a process of its own; one worker at least.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Of ONNX Runtime in every worker of other servers; ours divides the cores among its workers.  "
    "[default: the same]",
)
@click.option("--only", type=click.Choice(NAMES), multiple=True, help="Measure only this server; repeatable.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=REPORTS, show_default=True)
def main(
    *,
    model: str,
    device: Device,
    connections: tuple[int, ...],
    seconds: int,
    rounds: int,
    processes: int,
    threads: int | None,
    only: tuple[str, ...],
    output: Path,
) -> None:
    """Measure the same model behind several servers side by side, and write peers-MODEL.json and peers-MODEL.md, or
    peers-MODEL-N for N processes.

    wrk drives one server after another, all of them in every round, so that interference on the machine affects all
    alike.
    """
    bundle = crops.bundle(model)
    settings = {
        "EYESTATE_MODEL": str(bundle.path.absolute()),
        "EYESTATE_DEVICE": device,
        "EYESTATE_WORKERS": str(processes),
        "BENTOML_HOME": str(SCRATCH / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    chosen = [peer for peer in PEERS if not only or peer.name in only]
    about = conditions(
        bundle,
        model=bundle.manifest.name,
        device=device,
        seconds=seconds,
        rounds=rounds,
        processes=processes,
        threads=threads or "the cores divided by the workers",
    )
    expected = float(open_scorer(bundle, device).score([crops.jpeg(crops.eye())])[0])
    points: list[Point] = []
    failed: dict[str, str] = {}
    for turn in range(rounds):
        shift = turn % len(chosen)
        for peer in chosen[shift:] + chosen[:shift]:
            workers = peer.workers(processes)
            own = {"PEER_WORKERS": str(workers), "PEER_THREADS": str(threads or max(1, cores() // workers))}
            try:
                for point in measure(
                    peer, turn, connections=connections, seconds=seconds, settings=settings | own, expected=expected
                ):
                    click.echo(format_point(point))
                    points.append(point)
            except ServerError as error:
                failed[peer.name] = error.message.splitlines()[0]
                click.echo(f"{peer.name}: {error.message}", err=True)
    result = {
        "about": about,
        "targets": [dataclasses.asdict(target) for target in targets(points)],
        "rows": [dataclasses.asdict(row) for row in rows(points)],
        "ours_over": {peer.name: ratios(points, peer.name) for peer in chosen[1:]},
        "failed": failed,
        "points": [dataclasses.asdict(point) for point in points],
    }
    text = page(about, PEERS, points)
    name = f"peers-{bundle.manifest.name}"
    write_report(output, name if processes == 1 else f"{name}-{processes}", result, text)
    click.echo("\n" + text)


def measure(
    peer: Peer, turn: int, *, connections: Sequence[int], seconds: int, settings: dict[str, str], expected: float
) -> Iterator[Point]:
    """Start a server, check that it returns the expected score, warm it up, load it, and stop it."""
    image = crops.jpeg(crops.eye())
    body, content_type = peer.request(image)
    folder = programs(peer.venv)
    workers = settings["PEER_WORKERS"]
    command = [part.replace("{bin}", str(folder)).replace("{workers}", workers) for part in peer.command]
    environment = {name: value.replace("{workers}", workers) for name, value in peer.environment.items()}
    log = SCRATCH / "logs" / f"{peer.name.replace(' ', '-').lower()}-{turn}.log"
    with running_server(command, settings | environment, peer.probe(image), log) as server:
        check_score(peer, server, image, expected)
        url = server.url + peer.path
        drive(url, body, content_type, connections=WARM_UP_CONNECTIONS, seconds=WARM_UP_SECONDS, observe=server.memory)
        for number in connections:
            load, memory = drive(url, body, content_type, connections=number, seconds=seconds, observe=server.memory)
            yield Point(peer.name, turn, number, load, memory)


def check_score(peer: Peer, server: Server, image: bytes, expected: float) -> None:
    """Check that a server serves the model under test.

    Raises:
        ServerError: its score of an image differs from the model's.
    """
    answer = server.fetch(peer.probe(image)).decode()
    found = re.search(r"score\W+([0-9.e-]+)", answer)
    if not found or abs(float(found[1]) - expected) > SCORE_TOLERANCE:
        raise ServerError(f"{peer.name} returned {answer[:200]!r}; the model's score is {expected:.6f}")


def format_point(point: Point) -> str:
    """A point on one line, to show progress."""
    load = point.load
    return (
        f"round {point.round + 1}, {point.peer:<18} {point.connections:>4} connections: "
        f"{load.requests_per_second:>8,.0f}/s, p50 {load.p50_ms:.1f} ms, p99 {load.p99_ms:.1f} ms, "
        f"{point.memory.pss:,.0f} MiB, {load.statuses}, {({k: v for k, v in load.errors.items() if v}) or 'no errors'}"
    )


if __name__ == "__main__":
    main()
