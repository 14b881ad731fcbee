"""``python -m loadtests.scenarios SCENARIO``: run Locust against a service started for it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, get_args

import click

from eyestate.settings import Device
from loadtests.scenarios.options import OPTIONS
from loadtests.scenarios.plan import SCENARIOS
from tools.harness import crops
from tools.harness.servers import PROJECT
from tools.harness.service import running_service

REPORTS: Final = Path("reports") / "loadtests"
LOCUSTFILE: Final = PROJECT / "loadtests" / "locustfile.py"


EPILOG: Final = "\n\n".join(
    [
        "\b\nScenarios:\n" + "\n".join(f"  {name:<9} {scenario.what}" for name, scenario in SCENARIOS.items()),
        """\b
Examples:
  python -m loadtests.scenarios spike
  python -m loadtests.scenarios single --factor 2 --seconds 30 --p95-ms 50
  python -m loadtests.scenarios mixed --crops ../shared/data/eyes-dataset.zip
  python -m loadtests.scenarios soak --host https://eyestate.example --processes 4""",
    ]
)


def run_options(command: Any) -> Any:
    """The options that configure a run."""
    for option in reversed(OPTIONS):
        command = click.option(option.flag, metavar=option.metavar, type=option.read, help=option.help)(command)
    return command


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "ignore_unknown_options": True})
@click.argument("scenario", type=click.Choice(list(SCENARIOS)))
@run_options
@click.option("--host", metavar="URL", help="A running service.  [default: one is started]")
@crops.model_option()
@click.option("--device", type=click.Choice(get_args(Device)), default="auto", show_default=True, help="Of it.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Of it.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=REPORTS,
    show_default=True,
    help="Folder for SCENARIO.html and SCENARIO_*.csv.",
)
@click.argument("locust_options", nargs=-1, type=click.UNPROCESSED)
def main(
    *,
    scenario: str,
    host: str | None,
    model: str,
    device: Device,
    workers: int,
    output: Path,
    locust_options: tuple[str, ...],
    **run: Any,
) -> None:
    """Run a scenario with Locust, against a service started for it or a running one.

    The exit code is 0 if all limits of the scenario hold, and 1 otherwise. Unknown options are passed to Locust, for
    instance `--processes 4`.
    """
    with ExitStack() as stack:
        if host is None:
            bundle = crops.bundle(model)
            settings = {name: value for name, value in SCENARIOS[scenario].settings.items() if name not in os.environ}
            click.echo(f"Starting the service with {bundle.manifest.name}, {workers} worker(s) …")
            server = stack.enter_context(running_service(bundle, device, workers, f"scenario-{scenario}", **settings))
            host = server.url
        command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless", "--only-summary"]
        command += ["--host", host, "--scenario", scenario]
        for option in OPTIONS:
            if (value := run[option.name]) is not None:
                command += [option.flag, str(value)]
        report = output / f"{scenario}.html"
        command += ["--html", str(report), "--csv", str(output / scenario)]
        output.mkdir(parents=True, exist_ok=True)
        report.unlink(missing_ok=True)
        with subprocess.Popen([*command, *locust_options]) as locust:  # noqa: S603
            try:
                code = locust.wait()
            except KeyboardInterrupt:  # Locust receives it too, and still writes its report
                code = locust.wait()
    if report.exists():
        click.echo(f"Report: {report}")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
