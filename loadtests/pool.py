"""``python -m loadtests.pool``: the models on the unlabelled crops, real ones of the kind that is served."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import click
import numpy as np

from eyestate.arrays import Pixels
from eyestate.bundle import Bundle, CascadeBundle
from eyestate.errors import EyestateError
from eyestate.execution import cores
from eyestate.images import decode
from eyestate.media_types import NPY
from eyestate.scorer import Scorer, open_scorer
from tools.harness import crops
from tools.harness.report import (
    REPORTS,
    by_processor,
    conditions,
    describe_conditions,
    instructions,
    table,
    write_report,
)
from tools.harness.service import running_service
from tools.harness.wrk import drive
from training.data.datasets import data_dir, load_crops

MODELS: Final = ("cascade", "final_best_lite", "final_best")
REFERENCE: Final = "final_best"
_IN_REQUEST: Final = 200  # crops, evenly from the whole pool
_CONNECTIONS: Final = 2


@dataclass(frozen=True, slots=True)
class Row:
    """A model: the share that it defers, and its crops per second in process and over HTTP, medians over rounds."""

    model: str
    device: str
    deferred: float
    in_process: float
    over_http: float


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", type=click.IntRange(1), default=15, show_default=True, help="Of load over HTTP, each time.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Each in a different order.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=REPORTS, show_default=True)
def main(*, seconds: int, rounds: int, output: Path) -> None:
    """Measure the models that ship on all unlabelled crops, and write pool-PROCESSOR.json and .md.

    What a cascade gains depends on the crops, since it defers some of them to a network that costs far more, and on
    the processor, since its two networks do not gain the same from wider instructions. Needs the data sets
    ($EYESTATE_DATA) and wrk.
    """
    try:
        found = [decode(crop.data) for crop in load_crops(data_dir() / "eyes-dataset.zip").crops]
    except EyestateError as error:
        raise click.ClickException(error.message) from None
    sizes = {crop.shape for crop in found}
    if len(sizes) > 1:
        raise click.ClickException(f"the unlabelled crops are of {len(sizes)} sizes; packed requests have one")
    pool = np.stack(found)
    bundles = [crops.bundle(model) for model in MODELS]
    about = conditions(*bundles, crops=len(pool), in_request=_IN_REQUEST, seconds=seconds, rounds=rounds)
    rows = measure(bundles, pool, seconds, rounds)
    text = page(rows, about)
    write_report(
        output, by_processor("pool"), {"about": about, "rows": [dataclasses.asdict(row) for row in rows]}, text
    )
    click.echo("\n" + text)


def measure(bundles: Sequence[Bundle | CascadeBundle], pool: Pixels, seconds: int, rounds: int) -> list[Row]:
    """A row per model; all take turns in every round.

    Args:
        bundles: the models.
        pool: grey crops, uint8 (N, height, width).
        seconds: of load over HTTP, each time.
        rounds: of all models.
    """
    file, sent = io.BytesIO(), pool[:: -(-len(pool) // _IN_REQUEST)]
    np.save(file, sent)
    speeds: dict[str, tuple[list[float], list[float]]] = {bundle.manifest.name: ([], []) for bundle in bundles}
    scorers = {bundle.manifest.name: open_scorer(bundle) for bundle in bundles}
    for turn in range(rounds):
        for bundle in bundles if turn % 2 else reversed(bundles):
            name = bundle.manifest.name
            in_process, over_http = speeds[name]
            in_process.append(speed_in_process(scorers[name], pool))
            with running_service(bundle, "auto", 1, f"pool-{name}") as server:
                load, _ = drive(
                    f"{server.url}/v1/score/batch",
                    file.getvalue(),
                    NPY,
                    connections=_CONNECTIONS,
                    seconds=seconds,
                    observe=lambda: None,
                )
            over_http.append(load.requests_per_second * len(sent))
            click.echo(f"round {turn + 1}, {name:<16} {in_process[-1]:>10,.0f} {over_http[-1]:>10,.0f} crops/s")
    return [
        Row(name, scorers[name].device, deferred(scorers[name], pool), round(median(here), 1), round(median(http), 1))
        for name, (here, http) in speeds.items()
    ]


def speed_in_process(scorer: Scorer, pool: Pixels) -> float:
    """Crops per second of all crops, in the pieces in which a service scores them, after a warm-up."""
    pieces = [pool[start : start + scorer.batch_size] for start in range(0, len(pool), scorer.batch_size)]
    scorer.score_parts(pieces[:1])
    started = time.perf_counter()
    for piece in pieces:
        scorer.score_parts([piece])
    return len(pool) / (time.perf_counter() - started)


def deferred(scorer: Scorer, pool: Pixels) -> float:
    """The share of the crops that a cascade defers."""
    before = scorer.deferred
    scorer.score(pool)
    return (scorer.deferred - before) / len(pool)


def page(rows: Sequence[Row], about: dict[str, object]) -> str:
    """The report as Markdown."""
    reference = next(row for row in rows if row.model == REFERENCE)
    return "\n".join(
        [
            f"# The models on the unlabelled crops, {instructions()}\n",
            f"{describe_conditions(about)} Over HTTP: packed requests, npy to JSON, {_CONNECTIONS} at a time, one "
            f"worker with {cores()} threads, the load generator on the same cores.\n",
            table(
                ["Model", "Computed by", "Deferred", "Crops/s in process", f"÷ {REFERENCE}", "over HTTP", "÷"],
                [
                    (
                        row.model,
                        row.device,
                        f"{row.deferred:.1%}" if row.deferred else None,
                        f"{row.in_process:,.0f}",
                        f"{row.in_process / reference.in_process:.1f}",
                        f"{row.over_http:,.0f}",
                        f"{row.over_http / reference.over_http:.1f}",
                    )
                    for row in rows
                ],
            ),
        ]
    )


if __name__ == "__main__":
    main()
