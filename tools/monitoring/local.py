"""Prometheus and Grafana on this machine, with the configuration shipped for the cluster."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import yaml

from tools.harness.servers import Probe, Server, running_server
from tools.monitoring.artefacts import DASHBOARD, RULES, SCRAPE

_GRAFANA_HOME: Final = Path("/usr/share/grafana")  # where its packages install it


class MissingError(click.ClickException):
    """A required program is not installed."""


def require_prometheus() -> None:
    """Check that Prometheus is installed.

    Raises:
        MissingError: it is not.
    """
    if shutil.which("prometheus") is None:
        raise MissingError("Prometheus is not installed (Debian: apt install prometheus)")


def require_free(port: int) -> None:
    """Check that a port of the loopback interface is free.

    Raises:
        ClickException: it is not.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            message = f"port {port} cannot be used: {error.strerror}; choose another, see --help"
            raise click.ClickException(message) from None


@contextmanager
def prometheus(service: str, folder: Path, interval: str | None = None, port: int | None = None) -> Iterator[Server]:
    """Prometheus with the shipped scrape configuration and rules; it is stopped when the block ends.

    Args:
        service: host and port of the scrape target.
        folder: for its data, log and configuration.
        interval: between scrapes and rule evaluations; as shipped if None.
        port: to listen on; a free one if None.

    Raises:
        MissingError: Prometheus is not installed.
        ServerError: it did not start or did not stop.
    """
    require_prometheus()
    config: dict[str, Any] = yaml.safe_load(SCRAPE.read_text())
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [service]
    if interval:
        config["global"] = dict.fromkeys(config["global"], interval)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(RULES, folder)
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=31d",  # the objectives are over 30 days
        "--web.listen-address=127.0.0.1:{port}",
    ]
    with running_server(command, {}, Probe("/-/ready"), folder / "prometheus.log", port) as server:
        yield server


@contextmanager
def grafana(prometheus: str, folder: Path, port: int) -> Iterator[Server]:
    """Grafana with the shipped dashboard, without login, on the loopback interface.

    Args:
        prometheus: URL of the data source.
        folder: for its data, log and provisioning.
        port: to listen on.

    Raises:
        MissingError: Grafana is not installed.
        ServerError: it did not start or did not stop.
    """
    if shutil.which("grafana") is None:
        raise MissingError("Grafana (10.1 or newer) is not installed, so there is no dashboard")
    provision(prometheus, folder)
    command = ["grafana", "server", f"--homepath={_GRAFANA_HOME}"]
    environment = {
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": "{port}",
        "GF_PATHS_DATA": str(folder / "data"),
        "GF_PATHS_LOGS": str(folder),
        "GF_PATHS_PROVISIONING": str(folder / "provisioning"),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    }
    with running_server(command, environment, Probe("/api/health"), folder / "grafana.log", port) as server:
        yield server


def provision(prometheus: str, folder: Path) -> None:
    """Write the files that Grafana reads at startup: the data source, and where the dashboard is."""
    files: dict[str, dict[str, Any]] = {
        "datasources/prometheus.yml": {
            "datasources": [{"name": "Prometheus", "type": "prometheus", "url": prometheus, "isDefault": True}]
        },
        "dashboards/eyestate.yml": {
            "providers": [{"name": "eyestate", "type": "file", "options": {"path": str(folder / "dashboards")}}]
        },
    }
    (folder / "dashboards").mkdir(parents=True, exist_ok=True)
    shutil.copy(DASHBOARD, folder / "dashboards")
    for name, content in files.items():
        path = folder / "provisioning" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"apiVersion": 1, **content}))
