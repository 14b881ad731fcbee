"""``python -m tools.monitoring`` as people start it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from click.testing import CliRunner

from tests.bundles import write_bundle
from tools.harness.servers import PROJECT, SCRATCH, free_port
from tools.monitoring.__main__ import main
from tools.monitoring.artefacts import DASHBOARD
from tools.monitoring.local import provision

START_SECONDS = 120


def said(*arguments: str) -> str:
    """The message of a command that fails: one line, no traceback."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    message = result.output.strip().splitlines()[-1]
    assert message.startswith("Error: ")
    return message


def test_without_prometheus_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install prometheus" in said("up", "--port", str(free_port()), "--prometheus-port", str(free_port()))


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} cannot be used" in said("up", "--port", str(port))


def test_grafana_is_given_prometheus_and_the_dashboard(tmp_path: Path) -> None:
    provision("http://127.0.0.1:9090", tmp_path)
    (source,) = yaml.safe_load((tmp_path / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://127.0.0.1:9090", True)
    (provider,) = yaml.safe_load((tmp_path / "provisioning/dashboards/eyestate.yml").read_text())["providers"]
    folder = Path(provider["options"]["path"])
    assert [file.read_text() for file in folder.iterdir()] == [DASHBOARD.read_text()]


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: apt install prometheus)"
)
def test_up_shows_the_service_in_prometheus_until_it_is_interrupted(tmp_path: Path) -> None:
    port, watcher = free_port(), free_port()
    command = [
        sys.executable,
        "-m",
        "tools.monitoring",
        "up",
        "--port",
        str(port),
        "--prometheus-port",
        str(watcher),
        "--load",
    ]
    environment = {**os.environ, "EYESTATE_MODEL": str(write_bundle(tmp_path)), "PYTHONUNBUFFERED": "1"}
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            assert counted(f"http://127.0.0.1:{watcher}", 'sum(eyestate_requests_total{status="200"})') > 0
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            shutil.rmtree(SCRATCH / "monitoring" / str(watcher), ignore_errors=True)
    output = (tmp_path / "log").read_text()
    assert f"http://127.0.0.1:{port}" in output
    assert f"http://127.0.0.1:{watcher}/graph" in output
    assert "Traceback" not in output
    assert psutil.wait_procs(family, timeout=10)[1] == []


def counted(prometheus: str, query: str) -> float:
    """The value of a query once it has one."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            result = httpx.get(f"{prometheus}/api/v1/query", params={"query": query}).json()["data"]["result"]
        except (httpx.TransportError, KeyError):
            result = []
        if result:
            return float(result[0]["value"][1])
        time.sleep(0.2)
    pytest.fail(f"{query} has no value within {START_SECONDS} s")
