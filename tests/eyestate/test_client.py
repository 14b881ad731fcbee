from __future__ import annotations

import asyncio
import io
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from eyestate.client import AsyncClient, Client, ordered, served_model
from eyestate.errors import ServiceError, UnreachableError
from eyestate.schema import ErrorDetail, Verdict
from tests.faulty_service import PROJECT, FaultyService
from tools.harness.servers import free_port


def jpeg(brightness: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((24, 24), brightness, np.uint8)).save(file, "JPEG", quality=100)
    return file.getvalue()


def unused_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def client(service: FaultyService) -> Iterator[Client]:
    with Client(service.url, patience=20) as client:
        yield client


class TestScoring:
    def test_one_image(self, client: Client) -> None:
        answer = client.score(jpeg(255))
        assert (answer.score, answer.state, answer.model.name) == (1, "open", "brightness")

    def test_faces(self, client: Client) -> None:
        answer = client.find_faces((PROJECT / "docs" / "images" / "face.jpg").read_bytes())
        (face,) = answer.faces
        assert face.eyes.right
        assert face.eyes.left
        assert face.eyes.right.box.left < face.eyes.left.box.left
        assert client.find_faces(jpeg(0)).faces == []

    def test_faces_of_another_protocol(self, client: Client, service: FaultyService) -> None:
        service.order({"page": True})
        with pytest.raises(ServiceError, match="tells no faces"):
            client.find_faces(jpeg(0))

    def test_encoded_images(self, client: Client) -> None:
        verdicts = client.score_batch([jpeg(0), b"no image", jpeg(255), b""])
        assert isinstance(verdicts[0], Verdict)
        assert [v.state if isinstance(v, Verdict) else v.code for v in verdicts] == [
            "closed",
            "unsupported_image",
            "open",
            "empty_image",
        ]
        assert isinstance(verdicts[1], ErrorDetail)
        assert verdicts[1].message

    @pytest.mark.parametrize("shape", [(3, 16, 16), (3, 16, 16, 3), (3, 40, 24)])
    def test_crops_in_an_array(self, client: Client, service: FaultyService, shape: tuple[int, ...]) -> None:
        crops = np.empty(shape, np.uint8)
        crops.T[:] = (0, 51, 255)  # the last axis of the transpose is the first of the array
        verdicts = client.score_batch(crops)
        assert [v.score for v in verdicts if isinstance(v, Verdict)] == pytest.approx([0, 0.2, 1], abs=0.01)
        assert service.seen()["headers"][0]["content-type"] == "application/x-npy"

    def test_array_in_columns_order(self, client: Client) -> None:
        crops = np.asfortranarray(np.arange(2 * 16 * 16, dtype=np.uint16).reshape(2, 16, 16) % 256).astype(np.uint8)
        assert client.score_batch(crops) == client.score_batch(np.ascontiguousarray(crops))

    def test_array_of_another_type(self, client: Client) -> None:
        with pytest.raises(TypeError, match="uint8 array, not float64"):
            client.score_batch(np.zeros((1, 16, 16)))  # type: ignore[arg-type]

    def test_table_tells_the_model(self, client: Client) -> None:
        table = client.score_table([jpeg(0), b""])
        assert table.schema.names == ["score", "state", "error", "message"]
        assert table["score"].to_pylist() == [0, None]
        assert served_model(table) == client.model()
        assert re.fullmatch("[0-9a-f]{64}", client.model().sha256)

    def test_key_and_name_are_sent(self, service: FaultyService) -> None:
        with Client(service.url, api_key="k3y") as client:
            client.score(jpeg(0))
        (headers,) = service.seen()["headers"]
        assert headers["authorization"] == "Bearer k3y"
        assert headers["user-agent"].startswith("eyestate/")

    def test_threads_share_a_client(self, client: Client) -> None:
        verdicts: list[float] = []
        threads = [threading.Thread(target=lambda: verdicts.append(client.score(jpeg(255)).score)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert verdicts == [1] * 8


class TestFaults:
    @pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
    def test_what_passes_is_sent_again(self, client: Client, service: FaultyService, status: int) -> None:
        service.order({"status": status}, {"status": status})
        assert client.score(jpeg(255)).state == "open"
        seen = service.seen()
        assert seen["posts"] == 3
        assert len({headers["x-request-id"] for headers in seen["headers"]}) == 1

    @pytest.mark.parametrize("status", [307, 400, 401, 413, 422, 500])
    def test_what_does_not_pass_is_told_at_once(self, client: Client, service: FaultyService, status: int) -> None:
        service.order({"status": status, "headers": {"X-Request-ID": "r-1"}})
        with pytest.raises(ServiceError, match=f"answered {status} \\(ordered\\): as ordered$") as caught:
            client.score(jpeg(255))
        assert (caught.value.status, caught.value.code, caught.value.request_id) == (status, "ordered", "r-1")
        assert service.seen()["posts"] == 1

    def test_broken_connections_are_tried_again(self, client: Client, service: FaultyService) -> None:
        service.order({"cut": True}, {"cut": True})
        assert client.score(jpeg(255)).state == "open"

    def test_timeouts_are_tried_again(self, service: FaultyService) -> None:
        service.order({"delay": 5})
        with Client(service.url, timeout=0.3, patience=10) as client:
            assert client.score(jpeg(255)).state == "open"

    @pytest.mark.parametrize("form", ["seconds", "date"])
    def test_retry_after_is_kept_to(self, client: Client, service: FaultyService, form: str) -> None:
        started = time.monotonic()
        told = "1" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        service.order({"status": 429, "headers": {"Retry-After": told}})
        client.score(jpeg(255))
        assert time.monotonic() - started >= 0.9

    @pytest.mark.parametrize("told", ["soon", "-1", "", "Mon, 99 Foo", "²"])
    def test_retry_after_of_no_meaning(self, client: Client, service: FaultyService, told: str) -> None:
        service.order({"status": 429, "headers": {"Retry-After": told}})
        assert client.score(jpeg(255)).state == "open"

    def test_a_longer_wait_than_our_patience_is_not_begun(self, service: FaultyService) -> None:
        service.order(then={"status": 429, "headers": {"Retry-After": "60"}})
        started = time.monotonic()
        with Client(service.url, patience=30) as client, pytest.raises(ServiceError, match="429"):
            client.score(jpeg(255))
        assert time.monotonic() - started < 30
        assert service.seen()["posts"] == 1

    def test_patience_ends(self, service: FaultyService) -> None:
        service.order(then={"status": 503})
        started = time.monotonic()
        with Client(service.url, patience=2) as client, pytest.raises(ServiceError) as caught:
            client.score(jpeg(255))
        assert time.monotonic() - started < 10
        assert re.search(r"503 \(ordered\): as ordered; gave up after \d s and \d+ attempts$", caught.value.message)
        assert service.seen()["posts"] > 2

    def test_long_trouble_is_logged_once(
        self, service: FaultyService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("eyestate.client.attempts._SILENT_SECONDS", 0.1)
        service.order(*[{"status": 503}] * 6)
        with Client(service.url, patience=20) as client:
            client.score(jpeg(255))
        (message,) = [record.getMessage() for record in caplog.records if record.name == "eyestate.client.attempts"]
        assert message.endswith("answered 503 (ordered): as ordered; retrying for up to 20 s")

    def test_nothing_answers(self) -> None:
        url = unused_url()
        with Client(url, patience=0.5) as client:
            assert not client.ready()
            with pytest.raises(UnreachableError, match=f"no answer from {url}"):
                client.score(jpeg(255))

    @pytest.mark.parametrize("endpoint", ["", "localhost:3000", "ftp://x", "http://", "http://x:y", "/v1"])
    def test_no_endpoint(self, endpoint: str) -> None:
        with pytest.raises(UnreachableError, match="is no URL such as"):
            Client(endpoint)

    def test_another_protocol(self, client: Client, service: FaultyService) -> None:
        service.order({"page": True}, {"page": True})
        with pytest.raises(ServiceError, match="does not speak eyestate's protocol"):
            client.score(jpeg(255))
        with pytest.raises(ServiceError, match="no Arrow table"):
            client.score_batch([jpeg(255)])

    def test_errors_of_a_proxy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answer = httpx.Response(403, text="<h1>Forbidden</h1>")
        monkeypatch.setattr(httpx.Client, "send", lambda *_: answer)
        with Client("http://proxy") as client, pytest.raises(ServiceError, match=r"403 \(http_error\): Forbidden"):
            client.score(b"")

    @pytest.mark.parametrize("metadata", [None, {"model_name": "x"}])
    def test_table_without_a_model(self, metadata: dict[str, str] | None) -> None:
        with pytest.raises(ServiceError, match="lacks the metadata 'model_"):
            served_model(pa.table({"score": [1.0]}).replace_schema_metadata(metadata))


class TestAsync:
    def test_scores(self, service: FaultyService) -> None:
        async def scores() -> None:
            async with AsyncClient(service.url) as client:
                assert await client.ready()
                assert (await client.model()).name == "brightness"
                assert (await client.score(jpeg(255))).state == "open"
                assert (await client.find_faces(jpeg(255))).faces == []
                (verdict, error) = await client.score_batch([jpeg(0), b""])
                assert isinstance(verdict, Verdict)
                assert isinstance(error, ErrorDetail)

        asyncio.run(scores())

    def test_map_keeps_the_order_and_the_bound(self, service: FaultyService) -> None:
        taken = 0

        def batches() -> Iterator[list[bytes]]:
            nonlocal taken
            for brightness in range(0, 250, 10):
                taken += 1
                yield [jpeg(brightness)] * 2

        faults: list[dict[str, Any] | None] = [
            {"delay": 0.1},
            {"status": 429},
            None,
            {"cut": True},
            {"delay": 0.05},
        ] * 3

        async def run() -> list[float]:
            scores, answered = [], 0
            async with AsyncClient(service.url, in_flight=3) as client:
                async for verdicts in client.map(batches()):
                    answered += 1
                    assert taken <= answered + 2 * 3
                    scores += [v.score for v in verdicts if isinstance(v, Verdict)]
            return scores

        service.order(*[{"delay": 1}] * 2, *faults * 4)  # so that even on a busy machine a third joins the first two
        scores = asyncio.run(run())
        np.testing.assert_allclose(scores, np.repeat(np.arange(0, 250, 10), 2) / 255, atol=0.005)
        assert service.seen()["most"] == 3

    def test_map_stops_at_an_error(self, service: FaultyService) -> None:
        service.order(None, {"status": 401}, then={"delay": 0.5})

        async def run() -> None:
            async with AsyncClient(service.url, in_flight=2) as client:
                with pytest.raises(ServiceError, match="401"):
                    async for _ in client.map(
                        [[jpeg(0)]] * 50
                    ):  # which of the first requests fails, their arrival decides
                        pass
            assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

        asyncio.run(run())
        assert service.seen()["posts"] < 10

    def test_ordered_hands_on_an_error_of_the_items(self) -> None:
        def items() -> Iterator[int]:
            yield 1
            raise OSError("the disk is gone")

        async def run() -> list[int]:
            return [result async for result in ordered(lambda item: asyncio.sleep(0, item), items(), 1)]

        with pytest.raises(OSError, match="the disk is gone"):
            asyncio.run(run())


class TestCertificates:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        key, path = tmp_path / "key.pem", tmp_path / "certificate.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "1"]
        subprocess.run([*command, *names, "-keyout", key, "-out", path], check=True, capture_output=True)
        return path

    @pytest.fixture
    def url(self, certificate: Path) -> Iterator[str]:
        body = (
            b'{"status":"ready","model":{"name":"m","version":"1","sha256":"' + b"0" * 64 + b'"},'
            b'"device":"cpu","waiting":0}'
        )

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield f"https://localhost:{server.server_address[1]}"
            server.shutdown()
            thread.join(10)

    def test_own_authority(self, url: str, certificate: Path) -> None:
        with Client(url, verify=certificate) as client:
            assert client.model().name == "m"

    def test_unknown_authority_is_told_at_once(self, url: str) -> None:
        started = time.monotonic()
        with (
            Client(url, patience=30) as client,
            pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            client.model()
        assert time.monotonic() - started < 30

    def test_unverified(self, url: str) -> None:
        with Client(url, verify=False) as client:
            assert client.model().name == "m"

    @pytest.mark.parametrize("content", [None, "no certificate"])
    def test_no_certificates(self, tmp_path: Path, content: str | None) -> None:
        path = tmp_path / "ca.pem"
        if content:
            path.write_text(content)
        with pytest.raises(UnreachableError, match="cannot read CA certificates"):
            Client("https://localhost", verify=path)


class TestEnvironment:
    """The proxy variables of desktops and containers."""

    @pytest.mark.parametrize(
        "variables",
        [
            {"all_proxy": "socks://127.0.0.1:1080/"},
            {"ALL_PROXY": "socks5://127.0.0.1:1080"},
            {"NO_PROXY": "localhost,127.0.0.0/8,::1/128"},
            {"http_proxy": "http://127.0.0.1:9", "no_proxy": "10.0.0.0/8"},
            {"SSL_CERT_FILE": "/nowhere.pem"},
        ],
    )
    def test_service_on_this_machine_is_reached_directly(
        self, service: FaultyService, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with Client(service.url) as client:
            assert client.model().name == "brightness"

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "eyes.localhost", "127.1.2.3", "[::1]", "0.0.0.0"])
    def test_names_of_this_machine(self, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
        monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:1080/")
        Client(f"http://{host}:3000").close()

    @pytest.mark.parametrize(
        ("variable", "value"),
        [("ALL_PROXY", "socks://127.0.0.1:1080/"), ("NO_PROXY", "fc00::/7"), ("HTTP_PROXY", "x:y")],
    )
    def test_proxies_that_cannot_be_used(self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
        monkeypatch.setenv(variable, value)
        with pytest.raises(UnreachableError, match="the environment's proxy settings cannot be used"):
            Client("http://eyes.example")
        with pytest.raises(UnreachableError, match="the environment's proxy settings cannot be used"):
            AsyncClient("http://eyes.example")

    def test_certificates_that_are_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
        with pytest.raises(UnreachableError, match=r"from /nowhere\.pem, which SSL_CERT_FILE names: No such file"):
            Client("https://127.0.0.1:1")

        monkeypatch.delenv("SSL_CERT_FILE")
        monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
        with pytest.raises(UnreachableError, match="SSL_CERT_DIR names /nowhere, where there is no folder"):
            Client("https://127.0.0.1:1")
        monkeypatch.delenv("SSL_CERT_DIR")
        monkeypatch.setenv("SSLKEYLOGFILE", "/nowhere/keys")
        with pytest.raises(UnreachableError, match=r"cannot prepare for https://127\.0\.0\.1:1: .*/nowhere/keys"):
            Client("https://127.0.0.1:1")

    @pytest.mark.parametrize(
        "endpoint",
        [
            "http://xn--a",
            "http://a..b",
            f"http://{'a' * 64}.example",
            "http://127.0.0.1:1/?a=b",
            "http://1.2.3.4:a",
            " ",
        ],
    )
    def test_endpoints_that_are_none(self, endpoint: str) -> None:
        with pytest.raises(UnreachableError, match="is no URL such as http"):
            Client(endpoint)

    def test_white_space_around_endpoint_and_key(self, service: FaultyService) -> None:
        with Client(f" {service.url}\r\n", api_key="k3y \r\n") as client:
            client.score(jpeg(0))
        assert service.seen()["headers"][0]["authorization"] == "Bearer k3y"

    def test_keys_of_any_bytes(self, service: FaultyService) -> None:
        with Client(service.url, api_key="schlüssel\udcff") as client:
            client.score(jpeg(0))
        sent = service.seen()["headers"][0]["authorization"]
        assert sent.encode("latin-1") == "Bearer schlüssel".encode() + b"\xff"
        with pytest.raises(UnreachableError, match="a line break or another control character"):
            Client(service.url, api_key="a\nb")


class TestImport:
    @staticmethod
    def python(code: str) -> str:
        return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    def test_without_onnxruntime(self) -> None:
        code = (
            "import sys, eyestate.client; print([m for m in ('onnxruntime', 'torch', 'starlette') if m in sys.modules])"
        )
        assert self.python(code) == "[]\n"

    @pytest.mark.parametrize("package", ["httpx", "pyarrow"])
    def test_missing_package_names_the_extra(self, package: str) -> None:
        code = (
            f"import sys; sys.modules[{package!r}] = None\n"
            "from eyestate.errors import MissingExtraError\n"
            "try: import eyestate.client\n"
            "except MissingExtraError as error: print(error.message)"
        )
        assert self.python(code) == f"{package} is not installed; install it with: pip install 'eyestate[client]'\n"
