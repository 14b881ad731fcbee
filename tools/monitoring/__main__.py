"""``python -m tools.monitoring``: generate rules and dashboard, check them, watch a local service."""

from __future__ import annotations

import signal
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

import click

from eyestate.atomic import write_atomically
from eyestate.bundle import load_model
from eyestate.cli import Commands
from eyestate.settings import settings
from tools.harness.servers import PROJECT, SCRATCH
from tools.harness.service import running_service
from tools.monitoring.artefacts import generated
from tools.monitoring.check import check_queries, under_load
from tools.monitoring.local import MissingError, grafana, prometheus, require_free, require_prometheus
from tools.monitoring.report import render

REPORT = PROJECT / "reports" / "monitoring" / "queries.md"
_GRAFANA_PORT = 3001  # its default, 3000, is the service's
_REQUESTS_PER_SECOND = 10


@click.group(cls=Commands)
def main() -> None:
    """Prometheus rules and the Grafana dashboard of eyestate.

    Rules are defined in k8s/monitoring/rules.yml, the dashboard in tools/monitoring/dashboard.py; docs/operations.md
    explains both.
    """


@main.command()
def generate() -> None:
    """Write k8s/monitoring/dashboard.json and prometheus-rule.yaml, and the links of rules.yml.

    Links lead to the site_url of mkdocs.yml.
    """
    for path, content in generated().items():
        write_atomically(path, content)
        click.echo(f"wrote {path.relative_to(PROJECT)}")


@main.command()
def queries() -> None:
    """Run every query of dashboard and rules on a real Prometheus and report the results.

    It scrapes the service, started with two workers and put under load, with the shipped configuration. Exits with 1 if
    a query fails or has no value.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = check_queries(load_model(), Path(folder))
    write_atomically(REPORT, render(report))
    click.echo(f"{len(report.dashboard)} queries of the dashboard, {len(report.rules)} of the rules")
    click.echo(f"wrote {REPORT.relative_to(PROJECT)}")
    if report.problems:
        raise click.ClickException("; ".join(report.problems))


@main.command()
@click.option("--port", default=3000, show_default=True, help="Of the service.")
@click.option("--prometheus-port", default=9090, show_default=True, help="Of Prometheus.")
@click.option(
    "--load", "with_load", is_flag=True, help=f"Send {_REQUESTS_PER_SECOND} requests per second of every kind."
)
def up(port: int, prometheus_port: int, with_load: bool) -> None:
    """Start the service, Prometheus and, if installed, Grafana with the dashboard; Ctrl-C stops them.

    The service takes the same EYESTATE_ variables as `make serve`.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    for wanted in (port, prometheus_port):
        require_free(wanted)
    require_prometheus()
    folder = SCRATCH / "monitoring" / str(prometheus_port)
    with ExitStack() as started, suppress(KeyboardInterrupt):
        click.echo("Starting the service and Prometheus …")
        chosen, bundle = settings(), load_model()
        service = started.enter_context(running_service(bundle, chosen.device, chosen.workers, "monitoring", port))
        prometheus_server = started.enter_context(
            prometheus(f"127.0.0.1:{port}", folder / "prometheus", port=prometheus_port)
        )
        click.echo(
            f"Service     {service.url}\nPrometheus  {prometheus_server.url}/graph, {prometheus_server.url}/alerts"
        )
        try:
            grafana_server = started.enter_context(grafana(prometheus_server.url, folder / "grafana", _GRAFANA_PORT))
            click.echo(f"Dashboard   {grafana_server.url}/d/eyestate")
        except MissingError as error:
            click.echo(f"Dashboard   {error.message}")
        if with_load:
            started.enter_context(under_load(port, bundle.manifest.name, _REQUESTS_PER_SECOND))
        click.echo("Ctrl-C stops everything.")
        while service.process.poll() is None and prometheus_server.process.poll() is None:
            time.sleep(0.5)
        raise click.ClickException(f"a server exited; the logs are {service.log} and {prometheus_server.log}")


def _stop(*_: object) -> NoReturn:
    """Stop once: make passes a signal on that its child has got already, and stopping must not be interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main(prog_name="python -m tools.monitoring")
