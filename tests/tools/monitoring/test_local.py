"""``python -m tools.monitoring`` as started from a terminal."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

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

T = TypeVar("T")


def error_message(*arguments: str) -> str:
    """The message of a command that fails: the last line, without a traceback."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    message = result.output.strip().splitlines()[-1]
    assert message.startswith("Error: ")
    return message


def test_missing_prometheus_is_reported_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt install prometheus" in error_message(
        "up", "--port", str(free_port()), "--prometheus-port", str(free_port())
    )


def test_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} cannot be used" in error_message("up", "--port", str(port))


def test_grafana_is_provisioned_with_prometheus_and_the_dashboard(tmp_path: Path) -> None:
    provision("http://127.0.0.1:9090", tmp_path)
    (source,) = yaml.safe_load((tmp_path / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://127.0.0.1:9090", True)
    (provider,) = yaml.safe_load((tmp_path / "provisioning/dashboards/eyestate.yml").read_text())["providers"]
    folder = Path(provider["options"]["path"])
    assert [file.read_text() for file in folder.iterdir()] == [DASHBOARD.read_text()]


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: apt install prometheus)"
)
@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGINT], id="Ctrl-C"),
        pytest.param([signal.SIGTERM, signal.SIGTERM], id="SIGTERM, which make passes on to those who have it already"),
        pytest.param([signal.SIGHUP, signal.SIGINT], id="a closed terminal"),
    ],
)
def test_up_serves_under_load_and_prometheus_scrapes_it_until_stopped(
    tmp_path: Path, signals: list[signal.Signals]
) -> None:
    port, prometheus_port = free_port(), free_port()
    command = [sys.executable, "-m", "tools.monitoring", "up", "--load"]
    command += ["--port", str(port), "--prometheus-port", str(prometheus_port)]
    environment = {
        **os.environ,
        "EYESTATE_MODEL": str(write_bundle(tmp_path)),
        "EYESTATE_DEVICE": "cpu",
        "PYTHONUNBUFFERED": "1",
    }
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            targets = eventually(process, log, lambda: active_targets(f"http://127.0.0.1:{prometheus_port}"))
            assert targets == [f"http://127.0.0.1:{port}/metrics"]
            assert eventually(process, log, lambda: scored_requests(f"http://127.0.0.1:{port}")) > 0
            family = psutil.Process(process.pid).children(recursive=True)
            for number in signals:
                process.send_signal(number)
                time.sleep(0.3)
            assert process.wait(60) == 0
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            shutil.rmtree(SCRATCH / "monitoring" / str(prometheus_port), ignore_errors=True)
    printed = log.read_text()
    assert f"http://127.0.0.1:{port}" in printed
    assert f"http://127.0.0.1:{prometheus_port}/graph" in printed
    assert "Traceback" not in printed
    assert psutil.wait_procs(family, timeout=10)[1] == []


def active_targets(prometheus: str) -> list[str]:
    """URLs that Prometheus scrapes."""
    targets = httpx.get(f"{prometheus}/api/v1/targets").json()["data"]["activeTargets"]
    return [target["scrapeUrl"] for target in targets]


def scored_requests(service: str) -> float:
    """Requests to /v1/score that the service has answered with 200, by its own metrics."""
    metrics = httpx.get(f"{service}/metrics").text
    found = re.search(r'^eyestate_requests_total{route="/v1/score",status="200"} (\S+)$', metrics, re.MULTILINE)
    return float(found[1]) if found else 0


def eventually(process: subprocess.Popen[bytes], log: Path, value: Callable[[], T]) -> T:
    """The first truthy value; fails with the process's output as soon as it has exited, or after ``START_SECONDS``."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if found := value():
                return found
        except (httpx.TransportError, ValueError):
            pass  # it does not listen yet, or answers that it is not ready
        time.sleep(0.1)
    state = "is still starting" if process.poll() is None else f"exited with {process.returncode}"
    pytest.fail(f"the process {state}; it printed:\n{log.read_text()}")
