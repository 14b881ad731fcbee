"""``python -m tools.monitoring``: generate rules and dashboard, check them, watch a local service."""

from __future__ import annotations

import signal
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import click

from eyestate.bundle import load_model
from eyestate.cli import Commands
from eyestate.settings import settings
from tools.harness.servers import PROJECT, SCRATCH
from tools.harness.service import running_service
from tools.monitoring.artefacts import DOCS, generated
from tools.monitoring.check import check_queries, under_load
from tools.monitoring.local import MissingError, grafana, prometheus, require_free, require_prometheus
from tools.monitoring.report import render

REPORT = PROJECT / "reports" / "monitoring" / "queries.md"
_GRAFANA_PORT = 3001  # its own would be 3000, where the service is
_REQUESTS_PER_SECOND = 10


@click.group(cls=Commands)
def main() -> None:
    """Prometheus rules and the Grafana dashboard of eyestate.

    The rules are written in k8s/monitoring/rules.yml, the dashboard in tools/monitoring/dashboard.py;
    docs/operations.md says how to read both.
    """


@main.command()
@click.option(
    "--docs",
    default=DOCS,
    show_default=True,
    help="Where your copy of docs/ is found, such as its address in your repository: links go there.",
)
def generate(docs: str) -> None:
    """Write k8s/monitoring/dashboard.json and prometheus-rule.yaml."""
    for path, content in generated(docs).items():
        path.write_text(content)
        click.echo(f"wrote {path.relative_to(PROJECT)}")


@main.command()
def queries() -> None:
    """Ask a real Prometheus everything that dashboard and rules ask, and write down its answers.

    It scrapes the service, started for this with two workers and put under load, with the shipped configuration. Exits
    with 1 where a query is in error or has no value.
    """
    with tempfile.TemporaryDirectory() as folder:
        outcome = check_queries(load_model(), Path(folder))
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(render(outcome))
    click.echo(f"{len(outcome.dashboard)} queries of the dashboard, {len(outcome.rules)} of the rules")
    click.echo(f"wrote {REPORT.relative_to(PROJECT)}")
    if outcome.problems:
        raise click.ClickException("; ".join(outcome.problems))


@main.command()
@click.option("--port", default=3000, show_default=True, help="Of the service.")
@click.option("--prometheus-port", default=9090, show_default=True, help="Of Prometheus.")
@click.option("--load", "with_load", is_flag=True, help=f"Send {_REQUESTS_PER_SECOND} requests a second of every kind.")
def up(port: int, prometheus_port: int, with_load: bool) -> None:
    """Start the service, Prometheus and, where it is installed, Grafana with the dashboard; Ctrl-C ends them.

    The service takes the same EYESTATE_ variables as `make serve`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for wanted in (port, prometheus_port):
        require_free(wanted)
    require_prometheus()
    folder = SCRATCH / "monitoring" / str(prometheus_port)
    with ExitStack() as started, suppress(KeyboardInterrupt):
        click.echo("Starting the service and Prometheus …")
        chosen, bundle = settings(), load_model()
        service = started.enter_context(running_service(bundle, chosen.device, chosen.workers, "monitoring", port))
        watcher = started.enter_context(prometheus(f"127.0.0.1:{port}", folder / "prometheus", port=prometheus_port))
        click.echo(f"Service     {service.url}\nPrometheus  {watcher.url}/graph, {watcher.url}/alerts")
        try:
            shown = started.enter_context(grafana(watcher.url, folder / "grafana", _GRAFANA_PORT))
            click.echo(f"Dashboard   {shown.url}/d/eyestate")
        except MissingError as error:
            click.echo(f"Dashboard   {error.message}")
        if with_load:
            started.enter_context(under_load(port, bundle.manifest.name, _REQUESTS_PER_SECOND))
        click.echo("Ctrl-C ends all of it.")
        while service.process.poll() is None and watcher.process.poll() is None:
            time.sleep(0.5)
        raise click.ClickException(f"a server ended; the logs are {service.log} and {watcher.log}")


if __name__ == "__main__":
    main(prog_name="python -m tools.monitoring")
