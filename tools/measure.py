"""``python -m tools.measure``: make the reports that are older than the models that ship, each by its own command.

A report is current if it names the models that ship; those that are, are skipped, so a run that was interrupted goes on
where it stopped. At the end README and docs are filled from all of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import click

from eyestate.bundle import DEFAULT_MODEL
from tools import figures
from tools.harness.report import by_processor
from tools.harness.servers import PROJECT, SCRATCH


@dataclass(frozen=True, slots=True)
class Measurement:
    """A report, within ``reports/``, and the command that writes it, for Python's ``-m``."""

    report: str
    command: str
    minutes: float

    @property
    def is_current(self) -> bool:
        """Whether it is of the models that ship."""
        path = figures.REPORTS / self.report
        return path.exists() and figures.is_current(json.loads(path.read_text()))


_AUTO: Final = f"--model {DEFAULT_MODEL} --device auto"
# Those of the quality of models, from `make train`, are not among them. Minutes are of two quiet cores with AVX-512.
# What suffers least from other work comes last.
MEASUREMENTS: Final = (
    Measurement(f"{DEFAULT_MODEL}/drift-examples.json", "training drift-examples", 0.3),
    Measurement(f"{DEFAULT_MODEL}/quality-limits.json", "training quality-limits", 0.7),
    Measurement(f"serving/footprint-{DEFAULT_MODEL}.json", "loadtests.footprint", 1),
    Measurement("serving/faces.json", "loadtests.faces", 0.5),
    Measurement("temporal/video.json", "tools.video_speed", 1),
    Measurement("serving/streams.json", "loadtests.streams", 2),
    Measurement("serving/protocols.json", "loadtests.protocols", 2),
    Measurement("serving/devices.json", "loadtests.devices", 4),
    Measurement(f"serving/{by_processor('pool')}.json", "loadtests.pool", 5),
    Measurement(f"serving/bulk-{DEFAULT_MODEL}.json", f"loadtests.bulk {_AUTO}", 5),
    Measurement("serving/bulk-small.json", "loadtests.bulk", 5),
    Measurement(
        f"serving/peers-{DEFAULT_MODEL}.json", f"loadtests.peers {_AUTO} --only eyestate --only Mosec --rounds 2", 2
    ),
    Measurement(
        f"serving/peers-{DEFAULT_MODEL}-2.json",
        f"loadtests.peers {_AUTO} --processes 2 --only eyestate --only Mosec --rounds 2",
        2,
    ),
    Measurement("serving/peers-small.json", "loadtests.peers", 10),
    Measurement("serving/chaos-overload.json", "loadtests.chaos overload", 1),
    Measurement("serving/chaos-kill.json", "loadtests.chaos kill", 1),
    Measurement("serving/chaos-drain.json", "loadtests.chaos drain", 0.5),
    Measurement("capacity/capacity.json", "loadtests.capacity", 15),
    Measurement("benchmarks/cpu.json", "tools.benchmarks", 10),
    Measurement("serving/chaos-hostile.json", "loadtests.chaos hostile --seconds 300 --requests 15000", 6),
    Measurement("container/cpu.json", "tools.container test cpu", 6),
    Measurement("temporal/blinks.json", "tools.blinks", 8),
    Measurement("serving/chaos-soak.json", "loadtests.chaos soak --seconds 1200 --workers 1", 20),
    Measurement("container/cuda.json", "tools.container test cuda", 10),
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only",
    type=click.Choice([each.report for each in MEASUREMENTS]),
    multiple=True,
    help="Measure this report, current or not; repeatable.",
)
@click.option("--list", "only_list", is_flag=True, help="Print what would run, and what is current.")
def main(only: tuple[str, ...], only_list: bool) -> None:
    """Measure what is older than the models that ship, one after another, and fill in README and docs.

    Nothing else should run meanwhile. Exits with 1 if a report is missing or not current afterwards, and says which
    command ended with an error: a claim that does not hold is one, and its report is written all the same.
    """
    chosen = [each for each in MEASUREMENTS if each.report in only or (not only and not each.is_current)]
    if only_list:
        for each in MEASUREMENTS:
            state = f"{each.minutes:4g} min" if each in chosen else " current"
            click.echo(f"{state}  {each.report:<36} python -m {each.command}")
        return
    missing = [each.report for each in chosen if not _measured(each)]
    figures.main(args=[], standalone_mode=False)
    if stale := list(_listed_in_vain()):
        click.echo(f"Take these off KNOWN_STALE in tools/figures.py: {', '.join(stale)}")
    if missing:
        raise click.ClickException(f"not measured: {', '.join(missing)}")


def _measured(measurement: Measurement) -> bool:
    """Run a measurement; whether its report is of the models that ship then."""
    log = SCRATCH / "logs" / f"measure-{measurement.report.replace('/', '-').removesuffix('.json')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("wb") as output:
        command = [sys.executable, "-m", *measurement.command.split()]
        code = subprocess.run(command, cwd=PROJECT, stdout=output, stderr=subprocess.STDOUT).returncode  # noqa: S603, PLW1510
    minutes = (time.monotonic() - started) / 60
    ended = "done" if code == 0 else f"exit code {code}, see {log.relative_to(PROJECT)}"
    click.echo(f"{minutes:5.1f} min  {measurement.report}: {ended}")
    return measurement.is_current


def _listed_in_vain() -> Iterator[str]:
    for name, report in figures.reports().items():
        if name in figures.KNOWN_STALE and figures.is_current(report):
            yield name


if __name__ == "__main__":
    main(prog_name="python -m tools.measure")
