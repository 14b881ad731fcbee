"""``python -m tools.benchmarks``: evaluate and time this project's models and the public ones in one run."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from eyestate.atomic import write_atomically
from eyestate.settings import Device
from tools.benchmarks.measure import measure
from tools.benchmarks.page import page
from tools.benchmarks.plot import draw
from tools.benchmarks.report import Report, targets
from tools.benchmarks.speed import BATCHES
from training.data.datasets import data_dir

SCRATCH = Path("runs") / "benchmarks"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Device to time.")
@click.option(
    "--peers",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: data_dir().parent / "peers",
    show_default="beside the data",
    help="Folder of the public models.",
)
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Evaluate on every N-th crop.")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=BATCHES, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0), default=0.5, show_default=True, help="Duration of each measurement."
)
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Measurements per point.")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("reports/benchmarks"), show_default=True
)
@click.option(
    "--docs",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("docs"),
    show_default=True,
    help="Folder for the page.",
)
@click.option("--page-only", is_flag=True, help="Write the page from the last reports without measuring.")
def main(
    *,
    device: Device,
    peers: Path,
    every: int,
    batches: tuple[int, ...],
    seconds: float,
    rounds: int,
    output: Path,
    docs: Path,
    page_only: bool,
) -> None:
    """Evaluate and time all models, and write DEVICE.json, benchmarks.md and its plot.

    Whatever is missing, a model, a peer or a data set ($EYESTATE_DATA), is skipped, and the page says so. Scores are
    cached in runs/benchmarks, so an interrupted run resumes.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("CUDA is not available; omit --device to measure on the CPU")
    if not page_only:
        report = measure(device, peers, every=every, batches=batches, seconds=seconds, rounds=rounds, scratch=SCRATCH)
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / f"{device}.json", report.model_dump_json(indent=2) + "\n")
    write_page(output, docs)


def write_page(reports: Path, docs: Path) -> None:
    """Write ``docs/benchmarks.md`` and its plot from the reports, and print which targets hold.

    Raises:
        ClickException: there is no report of a CPU run.
    """
    found = {
        device: Report.model_validate_json(path.read_bytes())
        for device in ("cpu", "cuda")
        if (path := reports / f"{device}.json").exists()
    }
    if "cpu" not in found:
        raise click.ClickException(
            f"no cpu.json in {reports}; run `python -m tools.benchmarks` without --page-only first"
        )
    picture = "images/benchmarks.svg"
    drawn = draw(found["cpu"], docs / picture)
    write_atomically(docs / "benchmarks.md", page(found["cpu"], found.get("cuda"), picture if drawn else None))
    for target in targets(found["cpu"]):
        outcome = {True: "held", False: "NOT HELD", None: "–"}[target.held]
        click.echo(f"{outcome:>8}  {target.wanted}: {target.found}")


if __name__ == "__main__":
    main(prog_name="python -m tools.benchmarks")
