"""How the service starts, protects itself, breaks and stops, tried on real processes with a tiny model."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
from circus.client import CircusClient
from circus.exc import CallError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.bundles import write_bundle
from tests.service.conftest import PROJECT, started_service, wait_until_ready

OPEN = (PROJECT / "examples" / "open.jpg").read_bytes()
KEY = "a-key-for-the-test"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_bundle(tmp_path_factory.mktemp("models")))


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if any("_bentoml_impl.worker" in part for part in child.cmdline())]


class Load:
    """Threads that score one crop again and again, each over its own connection, and count how that ends."""

    def __init__(self, url: str, threads: int = 8) -> None:
        self.url = url
        self.ends: Counter[str] = Counter()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(threads)
        self._threads = threads

    def __enter__(self) -> Load:
        for _ in range(self._threads):
            self._pool.submit(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def until(self, end: str, count: int) -> None:
        """Wait until so many requests have ended in a way."""
        deadline = time.monotonic() + 60
        while self.ends[end] < count:
            assert time.monotonic() < deadline, self.ends
            time.sleep(0.02)

    def _run(self) -> None:
        while not self._stop.is_set():
            with httpx.Client(base_url=self.url, timeout=20) as client:
                try:
                    while not self._stop.is_set():
                        self.ends[str(client.post("/v1/score", content=OPEN).status_code)] += 1
                except httpx.ConnectError:
                    self.ends["refused"] += 1
                    self._stop.wait(0.05)
                except httpx.TransportError as error:
                    self.ends[type(error).__name__] += 1


def test_sigterm_says_so_first_then_refuses_and_loses_nothing(tmp_path: Path, model: str) -> None:
    log = tmp_path / "log"
    with started_service(tmp_path, log, EYESTATE_MODEL=model, EYESTATE_DRAIN="4", EYESTATE_WORKERS="2") as (
        process,
        url,
    ):
        wait_until_ready(process, url, log)
        with Load(url) as load:
            load.until("200", 100)
            before = load.ends.copy()
            process.send_signal(signal.SIGTERM)
            told = time.monotonic()
            while (readiness := httpx.get(f"{url}/readyz")).status_code == 200:
                assert time.monotonic() < told + 4
            assert (readiness.status_code, readiness.json()["status"]) == (503, "draining")
            assert httpx.get(f"{url}/livez").status_code == 200
            answer = httpx.post(f"{url}/v1/score", content=OPEN)
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            assert process.wait(60) == 0
        assert set(before) == {"200"}
        assert set(load.ends) == {"200", "refused"}
        assert load.ends["200"] > before["200"]
    assert "Traceback" not in log.read_text()


def test_a_killed_worker_comes_back_while_the_other_serves(tmp_path: Path, model: str) -> None:
    """Even if the model's file has been damaged since the start."""
    log = tmp_path / "log"
    copy = shutil.copytree(model, tmp_path / "model")
    with started_service(tmp_path, log, EYESTATE_MODEL=str(copy), EYESTATE_DRAIN="0", EYESTATE_WORKERS="2") as (
        process,
        url,
    ):
        wait_until_ready(process, url, log)
        deadline = time.monotonic() + 60
        while "eyestate_worker_starts_total 2.0" not in httpx.get(f"{url}/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        victim, survivor = workers_of(process)
        with Load(url) as load:
            load.until("200", 100)
            (copy / "model.onnx").write_bytes(b"damaged")
            victim.kill()
            killed = time.monotonic()
            while "eyestate_worker_starts_total 3.0" not in httpx.get(f"{url}/metrics").text:
                assert time.monotonic() < killed + 6  # 2 on a machine that does nothing else
                time.sleep(0.1)
            load.until("200", load.ends["200"] + 100)
        assert set(load.ends) <= {"200", "ReadError", "RemoteProtocolError", "WriteError"}
        # Only the connections of the worker that was killed can break, each once.
        assert sum(count for end, count in load.ends.items() if end != "200") <= 8
        assert survivor.is_running()
        assert len(workers_of(process)) == 2
        deadline = time.monotonic() + 10  # each worker may show metrics of half a second ago
        while "eyestate_workers 2.0" not in httpx.get(f"{url}/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_workers_end_with_a_killed_supervisor_and_leave_the_port_free(tmp_path: Path, model: str) -> None:
    log = tmp_path / "log"
    with started_service(tmp_path, log, EYESTATE_MODEL=model, EYESTATE_WORKERS="2") as (process, url):
        wait_until_ready(process, url, log)
        workers = workers_of(process)
        process.kill()
        killed = time.monotonic()
        while any(worker.is_running() for worker in workers):
            assert time.monotonic() < killed + 10
            time.sleep(0.05)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/livez")


def test_no_local_user_can_send_the_supervisor_a_command(tmp_path: Path, model: str) -> None:
    """Circus, in whose place it is, would run the command of an `add` as the service's user."""
    log, proof = tmp_path / "log", tmp_path / "proof"
    add = {"name": "x", "cmd": "/bin/sh", "args": ["-c", f"id > {proof}"], "start": True}
    with started_service(tmp_path, log, EYESTATE_MODEL=model, EYESTATE_DRAIN="0") as (process, url):
        wait_until_ready(process, url, log)
        family = [psutil.Process(process.pid), *workers_of(process)]
        open_ports = {c.laddr.port for member in family for c in member.net_connections() if c.status == "LISTEN"}
        for port in open_ports:
            circus = CircusClient(endpoint=f"tcp://127.0.0.1:{port}", timeout=1)
            with pytest.raises(CallError):
                circus.send_message("add", **add)
            circus.stop()
        assert not proof.exists()
        assert open_ports == {httpx.URL(url).port}
        assert httpx.post(f"{url}/v1/score", content=OPEN).status_code == 200


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """An OTLP collector: its URL, and what it received."""
    received: list[ExportTraceServiceRequest] = []

    class Collect(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()


def test_keys_tls_traces_and_logs(
    tmp_path: Path, model: str, collector: tuple[str, list[ExportTraceServiceRequest]]
) -> None:
    endpoint, received = collector
    certificate, key, keys, log = (tmp_path / name for name in ("cert.pem", "key.pem", "keys", "log"))
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [
            *shlex.split("openssl req -x509 -newkey rsa:2048 -nodes -days 2"),
            *subject,
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    keys.write_text(f"{KEY}\n")
    with started_service(
        tmp_path,
        log,
        "--ssl-certfile",
        str(certificate),
        "--ssl-keyfile",
        str(key),
        EYESTATE_MODEL=model,
        EYESTATE_DRAIN="0",
        EYESTATE_LOG_LEVEL="debug",
        EYESTATE_API_KEYS_FILE=str(keys),
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
    ) as (process, url):
        context = ssl.create_default_context(cafile=certificate)
        wait_until_ready(process, url, log, verify=context)
        with httpx.Client(base_url=url, verify=context, timeout=20) as client:
            assert client.post("/v1/score", content=OPEN).status_code == 401
            assert client.get("/v2/models/brightness").status_code == 401
            for path in ("/readyz", "/livez", "/metrics", "/openapi.json", "/v2/health/ready"):
                assert client.get(path).status_code == 200, path
            trace = "0af7651916cd43dd8448eb211c80319c"
            answer = client.post(
                "/v1/score",
                content=OPEN,
                headers={
                    "Authorization": f"Bearer {KEY}",
                    "X-Request-ID": "traced-1",
                    "traceparent": f"00-{trace}-b7ad6b7169203331-01",
                },
            )
            assert answer.status_code == 200
            assert answer.headers["x-request-id"] == "traced-1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    spans = [
        span
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
        if span.trace_id.hex() == trace
    ]
    assert {span.name for span in spans} == {"POST /v1/score", "receive", "decode", "score"}
    (root,) = (span for span in spans if span.name == "POST /v1/score")
    assert root.parent_span_id.hex() == "b7ad6b7169203331"
    assert all(span.parent_span_id == root.span_id for span in spans if span is not root)
    starts = {span.name: span.start_time_unix_nano for span in spans}
    assert sorted(starts, key=starts.__getitem__)[-2:] == ["decode", "score"]

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert KEY not in log.read_text()
    (logged,) = (line for line in lines if line.get("request_id") == "traced-1")
    assert (logged["level"], logged["route"], logged["status"]) == ("debug", "/v1/score", 200)
    assert any(line["message"] == "ready" and line["model"] == "brightness" for line in lines)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"EYESTATE_DEVICE": "tpu"}, "EYESTATE_DEVICE is 'tpu'"),
        ({"EYESTATE_MODEL": "nothing"}, "there is no model 'nothing'"),
        ({"EYESTATE_API_KEYS_FILE": os.devnull}, "EYESTATE_API_KEYS_FILE"),
        ({"EYESTATE_API_KEYS_FILE": "{folder}/keys"}, "is not UTF-8 text; save it as UTF-8"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_clear_line(
    tmp_path: Path, setting: dict[str, str], message: str
) -> None:
    log = tmp_path / "log"
    (tmp_path / "keys").write_bytes("# Schlüssel\nkey\n".encode("cp1252"))
    environment = {name: value.format(folder=tmp_path) for name, value in setting.items()}
    with started_service(tmp_path, log, **environment) as (process, _):
        assert process.wait(60) != 0
    assert message in log.read_text()
    assert "Traceback" not in log.read_text()


def test_nothing_is_reported_to_anybody(tmp_path: Path, model: str) -> None:
    """However it is started; what BentoML reports of its users would go through the proxy."""
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        settings = {"EYESTATE_MODEL": model, "EYESTATE_DRAIN": "0", "BENTOML_DO_NOT_TRACK": "False"}
        with started_service(tmp_path, log, HTTPS_PROXY=address, HTTP_PROXY=address, **settings) as (process, url):
            wait_until_ready(process, url, log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        with pytest.raises(BlockingIOError):
            proxy.accept()
