"""The real service, started once as users start it, and stopped as Kubernetes stops it."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tools.harness.servers import free_port

PROJECT = Path(__file__).parents[2]
START_SECONDS = 120


@contextmanager
def started_service(
    home: Path, log: Path, *flags: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """``bentoml serve`` on a free port: the process, and the base URL it will answer on once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "service", "--host", "127.0.0.1", "--port", str(port), *flags]
    environment = {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", **environment}
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            yield process, f"{'https' if flags else 'http'}://127.0.0.1:{port}"
        finally:
            for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
                child.kill()  # or it would go on without its parent
            process.kill()


def wait_until_ready(
    process: subprocess.Popen[bytes], url: str, log: Path, verify: ssl.SSLContext | bool = True
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/readyz", timeout=5, verify=verify).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"the service did not become ready:\n{log.read_text()}")


@pytest.fixture(scope="session")
def service_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("service") / "service.log"


@pytest.fixture(scope="session")
def service(service_log: Path) -> Iterator[str]:
    """Base URL of a running service. Whatever the tests sent it, it must have logged no traceback and stop cleanly."""
    with started_service(service_log.parent / "home", service_log) as (process, url):
        wait_until_ready(process, url, service_log)
        yield url
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "Traceback" not in service_log.read_text()


@pytest.fixture
def client(service: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service, timeout=60) as client:
        yield client
