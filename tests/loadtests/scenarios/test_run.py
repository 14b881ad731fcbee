"""Locust against the real service. Locust changes Python's sockets, so it runs in processes of its own."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from eyestate.server.metrics import FRESH_SECONDS
from loadtests.scenarios.__main__ import LOCUSTFILE
from tools.harness import crops
from tools.harness.servers import PROJECT, Server, free_port
from tools.harness.service import running_service

KEY = "a-key-for-load-tests"
CROPS = ("--crops", str(PROJECT / "examples"))  # drawing eyes would take each of Locust's processes a while


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n")
    with running_service(crops.bundle("small"), "cpu", 1, "test-scenarios", EYESTATE_API_KEYS_FILE=str(keys)) as server:
        yield server


def run(output: Path, scenario: str, *options: str, **environment: str) -> tuple[int, str]:
    """The exit code, and all that was printed."""
    command = [sys.executable, "-m", "loadtests.scenarios", scenario, "--output", str(output), *options]
    variables = {**os.environ, "EYESTATE_API_KEY": KEY, **environment}
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    return done.returncode, done.stdout


def rows(output: Path, scenario: str) -> dict[str, dict[str, int]]:
    """Requests and failures by name, from the CSV file."""
    with (output / f"{scenario}_stats.csv").open() as file:
        return {
            row["Name"]: {"sent": int(row["Request Count"]), "failed": int(row["Failure Count"])}
            for row in csv.DictReader(file)
        }


def answered(server: Server, route: str) -> int:
    """Requests that the service answered with 200, by its own count."""
    time.sleep(FRESH_SECONDS)
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:
        found = re.search(rf'eyestate_requests_total{{route="{route}",status="200"}} (\S+)', answer.read().decode())
    return int(float(found[1])) if found else 0


def test_single_crops(service: Server, tmp_path: Path) -> None:
    before = answered(service, "/v1/score")
    code, printed = run(tmp_path, "single", "--host", service.url, *CROPS, "--seconds", "2", "--p95-ms", "20000")
    assert code == 0, printed
    assert "NOT HELD" not in printed
    sent = rows(tmp_path, "single")["single"]
    assert sent["sent"] > 0
    assert sent["failed"] == 0
    # Requests under way at the end are answered and not counted, at most one of each caller.
    assert 0 <= answered(service, "/v1/score") - before - sent["sent"] <= 30
    assert "<html" in (tmp_path / "single.html").read_text()


def test_batches_slower_than_their_p95_limit_fail(service: Server, tmp_path: Path) -> None:
    options = ("--host", service.url, *CROPS, "--seconds", "4", "--batch", "20", "--p95-ms", "0.001")
    code, printed = run(tmp_path, "batch", *options)
    assert code == 1, printed
    assert "NOT HELD  p95 of multipart requests at most 0.001 ms" in printed
    assert "NOT HELD  p95 of packed requests at most 0.001 ms" in printed
    found = rows(tmp_path, "batch")
    for kind in ("multipart", "packed"):
        assert found[kind]["sent"] > 0
        assert found[kind]["failed"] == 0, printed


def test_wrong_key_fails_and_processes_add_up(service: Server, tmp_path: Path) -> None:
    options = ("--host", service.url, *CROPS, "--seconds", "3", "--processes", "2")
    code, printed = run(tmp_path, "single", *options, EYESTATE_API_KEY="wrong")
    assert code == 1, printed
    assert "status 401" in printed
    found = rows(tmp_path, "single")["single"]
    assert found["sent"] == found["failed"] > 0


def test_master_and_worker(service: Server, tmp_path: Path) -> None:
    port = str(free_port())
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    locust = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--master-port", port]
    master = [*locust, "--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", port]
    master += ["--expect-workers", "1", "--expect-workers-max-wait", "60", "--host", service.url]
    master += ["--scenario", "single", "--seconds", "4", "--p95-ms", "20000", "--api-key-file", str(keys), *CROPS]
    with subprocess.Popen(
        [*locust, "--worker"], cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as worker:
        done = subprocess.run(master, cwd=PROJECT, capture_output=True, text=True, timeout=200, check=False)
        try:
            worker.wait(60)
        finally:
            worker.kill()
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"held +single requests are answered: (\d+) of \1\n", done.stdout), done.stdout
    assert worker.returncode == 0


def test_missing_crops_end_the_run_before_it_starts(service: Server, tmp_path: Path) -> None:
    code, printed = run(tmp_path, "single", "--host", service.url, "--crops", str(tmp_path / "none"))
    assert code == 1
    assert f"locust: there is no {tmp_path / 'none'}\n" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "single.html").exists()


def test_overload_is_rejected_and_rejections_are_not_failures(tmp_path: Path) -> None:
    # The service is started by the scenario; a queue of one crop is full at once.
    options = ("--model", "small", "--device", "cpu", *CROPS, "--factor", "0.1", "--seconds", "5", "--p95-ms", "60000")
    code, printed = run(tmp_path, "overload", *options, EYESTATE_QUEUE="1")
    found = rows(tmp_path, "overload")
    refused = [counts for name, counts in found.items() if name.endswith(" rejected")]
    assert sum(counts["sent"] for counts in refused) > 0, printed
    assert sum(counts["failed"] for counts in refused) == 0
    assert found["single"]["sent"] > 0
    assert re.search(r"^held +at least 1\.00% rejected", printed, re.MULTILINE), printed
    assert code == 0, printed


def test_interrupt_stops_the_service(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtests.scenarios", "single", "--model", "small", "--device", "cpu"]
    command += [*CROPS, "--output", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "All users spawned" in line:
                break
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        printed = process.communicate(timeout=60)[0]
    assert len(family) >= 2  # Locust and the service
    assert not [process for process in family if process.is_running()]
    assert "Scenario single" in printed
    assert (tmp_path / "single.html").exists()
