"""``python -m tools.benchmarks``: this project's models and the public ones, judged and timed in one run."""

from __future__ import annotations

from pathlib import Path

import click
import torch

from eyestate.settings import Device
from tools.benchmarks.measure import measure
from tools.benchmarks.page import page
from tools.benchmarks.plot import draw
from tools.benchmarks.report import Report, targets
from tools.benchmarks.speed import BATCHES
from training.data.datasets import data_dir

SCRATCH = Path("runs") / "benchmarks"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="What is timed.")
@click.option(
    "--peers",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: data_dir().parent / "peers",
    show_default="beside the data",
    help="Folder of the public models.",
)
@click.option("--every", type=click.IntRange(1), default=1, show_default=True, help="Judge on one crop in so many.")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=BATCHES, show_default=True)
@click.option("--seconds", type=click.FloatRange(0), default=0.5, show_default=True, help="Of each measurement.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Measurements of each point.")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("reports/benchmarks"), show_default=True
)
@click.option(
    "--docs",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("docs"),
    show_default=True,
    help="The page's.",
)
@click.option("--page-only", is_flag=True, help="Measure nothing: write the page from the last reports.")
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
    """Judge and time all models, and write DEVICE.json, benchmarks.md and its picture.

    What is missing, a model, a peer or a data set ($EYESTATE_DATA), is left out and the page says so. Scores are kept
    in runs/benchmarks: a run that was stopped does not compute them anew.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("there is no CUDA here; leave out --device to measure on the CPU")
    if not page_only:
        report = measure(device, peers, every=every, batches=batches, seconds=seconds, rounds=rounds, scratch=SCRATCH)
        output.mkdir(parents=True, exist_ok=True)
        (output / f"{device}.json").write_text(report.model_dump_json(indent=2) + "\n")
    write_page(output, docs)


def write_page(reports: Path, docs: Path) -> None:
    """Write ``docs/benchmarks.md`` and its picture from the reports, and say what held.

    Raises:
        ClickException: there is no report of a run on the CPU.
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
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "benchmarks.md").write_text(page(found["cpu"], found.get("cuda"), picture if drawn else None))
    for target in targets(found["cpu"]):
        verdict = {True: "held", False: "NOT HELD", None: "–"}[target.held]
        click.echo(f"{verdict:>8}  {target.wanted}: {target.found}")


if __name__ == "__main__":
    main(prog_name="python -m tools.benchmarks")
