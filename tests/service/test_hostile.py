"""What careless and hostile clients send, to a real service with a tiny model: none of it may harm it or the others."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest
from PIL import Image

from eyestate.media_types import ARROW, JSON
from tests.bundles import write_bundle
from tests.eyestate.server.test_packed import stream
from tests.service.conftest import started_service, wait_until_ready

TIMEOUT = 3.0
MUTANTS = 1_500
GROWTH_BYTES = 320 * 2**20  # the C library keeps what several threads took for a few giants at a time


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


EYE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 24), dtype=np.uint8))
JPEG = encoded(EYE, "JPEG")


def png(width: int, height: int, data: bytes) -> bytes:
    """A grey PNG with any size in its head and any data behind."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def with_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "x" * 60_000
    return encoded(EYE, "JPEG", exif=exif)


SOUND = {
    "jpeg": JPEG,
    "progressive": encoded(EYE, "JPEG", progressive=True),
    "cmyk": encoded(EYE.convert("CMYK"), "JPEG"),
    "png": encoded(EYE, "PNG"),
    "palette": encoded(EYE.convert("P"), "PNG"),
    "16 bit": encoded(Image.fromarray(np.full((24, 24), 40_000, np.uint16)), "PNG"),
    "transparent": encoded(EYE.convert("LA"), "PNG"),
    "webp": encoded(EYE, "WEBP"),
    "bmp": encoded(EYE, "BMP"),
    "animated webp": encoded(EYE, "WEBP", save_all=True, append_images=[EYE.rotate(90)] * 20),
    "animated png": encoded(EYE, "PNG", save_all=True, append_images=[EYE.rotate(90)] * 20),
    "exif": with_exif(6),
    "exif out of range": with_exif(99),
    "jpeg and zip": JPEG + b"PK\x03\x04" + bytes(200),
    "jpeg and html": JPEG + b"<script>alert(1)</script>",
}
HOSTILE = {
    "zip bomb": (png(4096, 4096, zlib.compress(bytes(64 * 2**20))), {200, 422}),
    "endless png": (png(65_535, 65_535, zlib.compress(bytes(2**20))), {413}),
    "largest png": (png(2**31 - 1, 2**31 - 1, b""), {413}),
    "png without size": (png(0, 0, b""), {415, 422}),
    "giant jpeg": (JPEG.replace(b"\x00\x18\x00\x18", b"\xff\xff\xff\xff", 1), {413}),
    "gif": (encoded(EYE, "GIF"), {415}),
    "tiff": (encoded(EYE, "TIFF"), {415}),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="24" height="24"/>', {415}),
    "html": (b"<!doctype html><script>alert(1)</script>", {415}),
    "zip": (b"PK\x03\x04" + bytes(100), {415}),
    "zeros": (bytes(1000), {415}),
}


def mutants(seed: int) -> Iterator[bytes]:
    """Sound and hostile images, cut, flipped, spliced and repeated."""
    choose = random.Random(seed)
    sources = [*SOUND.values(), *(body for body, _ in HOSTILE.values() if len(body) < 100_000)]
    while True:
        body = bytearray(choose.choice(sources))
        for _ in range(choose.randint(1, 4)):
            at = choose.randrange(len(body)) if body else 0
            match choose.randrange(5):
                case 0:
                    del body[at:]
                case 1:
                    body[at : at + 1] = bytes([choose.randrange(256)])
                case 2:
                    body[at:at] = choose.randbytes(choose.randint(1, 64))
                case 3:
                    del body[at : at + choose.randint(1, 64)]
                case _:
                    other = choose.choice(sources)
                    body[at:] = other[choose.randrange(len(other)) :]
        yield bytes(body)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A service that nothing below may make log a traceback or end otherwise than well."""
    folder = tmp_path_factory.mktemp("hostile")
    log = folder / "log"
    settings = {"EYESTATE_MODEL": str(write_bundle(folder)), "EYESTATE_TIMEOUT": str(TIMEOUT), "EYESTATE_DRAIN": "0"}
    with started_service(folder, log, **settings) as (process, url):
        wait_until_ready(process, url, log)
        yield process, url
        assert_well(url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "raceback" not in log.read_text()


@pytest.fixture
def url(victim: tuple[subprocess.Popen[bytes], str]) -> str:
    return victim[1]


def memory(process: subprocess.Popen[bytes]) -> int:
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(each.memory_info().rss for each in tree)


def error_of(answer: bytes) -> tuple[int, str]:
    """Status and code of an error as it came over the wire; it must be in the form of the API and have an id."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"x-request-id: " in head, answer[:300]
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message"}
    return int(head.split()[1]), error["code"]


def assert_well(url: str) -> None:
    """The service scores right, and nothing is left in its queue."""
    answer = httpx.post(f"{url}/v1/score", content=encoded(Image.new("L", (24, 24), 204), "PNG"))
    assert answer.json()["score"] == pytest.approx(0.8, abs=0.005)
    assert httpx.get(f"{url}/readyz").json()["waiting"] == 0


def raw(url: str, request: bytes, seconds: float = 2 * TIMEOUT) -> bytes:
    """What the service sends back until it closes the connection or says no more."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=seconds) as connection:
        answer = b""
        try:
            connection.sendall(request)
            connection.settimeout(0.5)
            while chunk := connection.recv(2**16):
                answer += chunk
        except (TimeoutError, ConnectionError):
            pass
        return answer


@pytest.mark.parametrize("name", SOUND)
def test_odd_but_sound_images_are_scored(url: str, name: str) -> None:
    answer = httpx.post(f"{url}/v1/score", content=SOUND[name])
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_images_are_refused(url: str, name: str) -> None:
    body, expected = HOSTILE[name]
    answer = httpx.post(f"{url}/v1/score", content=body, timeout=20)
    assert answer.status_code in expected, answer.text  # and not 504, which would have come after TIMEOUT


def test_thousands_of_damaged_images(victim: tuple[subprocess.Popen[bytes], str]) -> None:
    process, url = victim
    bodies = [body for body, _ in zip(mutants(7), range(MUTANTS), strict=False)]

    def statuses(part: list[bytes]) -> set[int]:
        limits = httpx.Limits(keepalive_expiry=TIMEOUT / 3)  # on a busy machine, no connection the service just closed
        with httpx.Client(base_url=url, timeout=30, limits=limits) as client:
            answers = [client.post("/v1/score", content=body) for body in part]
        assert all(
            answer.status_code == 200 or set(answer.json()["error"]) == {"code", "message"} for answer in answers
        )
        return {answer.status_code for answer in answers}

    def round_trip() -> set[int]:
        with ThreadPoolExecutor(4) as pool:
            return set().union(*pool.map(statuses, [bodies[i::4] for i in range(4)]))

    def batch() -> None:
        headers = {"content-type": ARROW}
        answer = httpx.post(f"{url}/v1/score/batch", content=stream_of(bodies), headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        assert len(results) == len(bodies)
        assert {"score", "error"} >= {key for result in results for key in result} - {"state"}

    assert round_trip() <= {200, 400, 413, 415, 422}
    batch()
    before = memory(process)
    for _ in range(2):
        round_trip()
        batch()
    assert memory(process) - before < GROWTH_BYTES
    assert_well(url)


def stream_of(bodies: list[bytes]) -> bytes:
    return stream(pa.array(bodies, pa.binary()))


def test_slow_bodies_end_and_do_not_slow_down_others(url: str) -> None:
    address = httpx.URL(url)
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\n"
    slow = [socket.create_connection((address.host, address.port), timeout=20) for _ in range(100)]
    for connection in slow:
        connection.sendall(head)
    started, answered = time.perf_counter(), 0
    with httpx.Client(base_url=url) as client:
        while time.perf_counter() - started < TIMEOUT / 2:
            for connection in slow:
                connection.sendall(b"x")
            assert client.post("/v1/score", content=JPEG).status_code == 200
            answered += 1
            time.sleep(0.1)
    assert answered > 1  # had the first waited for the slow ones, there would have been no time for a second
    for connection in slow:
        answer = connection.recv(2**16)
        assert answer.startswith(b"HTTP/1.1 408"), answer
        connection.close()


def test_clients_that_vanish(url: str) -> None:
    choose = random.Random(3)
    address = httpx.URL(url)
    request = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(JPEG) + JPEG
    for _ in range(400):
        with socket.create_connection((address.host, address.port)) as connection:
            connection.sendall(request[: choose.randint(0, len(request))])
            if choose.random() < 0.5:  # with a reset rather than a farewell
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(0.5)
    assert_well(url)


POST = b"POST /v1/score HTTP/1.1\r\nHost: x\r\n"
SCORED: Callable[[bytes], bool] = lambda answer: answer.count(b"HTTP/1.1 200") >= 1  # noqa: E731
REFUSED: Callable[[bytes], bool] = lambda answer: answer == b"" or answer.startswith(b"HTTP/1.1 4")  # noqa: E731


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        pytest.param(POST + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG, SCORED, id="as it should be"),
        pytest.param((POST + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG) * 5, SCORED, id="pipelined"),
        pytest.param(
            POST.replace(b"1.1", b"1.0") + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG, SCORED, id="HTTP/1.0"
        ),
        pytest.param(
            POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(JPEG) + JPEG, SCORED, id="expect"
        ),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(JPEG) + JPEG + b"\r\n0\r\n\r\n",
            SCORED,
            id="chunked",
        ),
        pytest.param(POST + b"Content-Length: -1\r\n\r\nx", REFUSED, id="negative length"),
        pytest.param(POST + b"Content-Length: many\r\n\r\nx", REFUSED, id="length in words"),
        pytest.param(POST + b"Content-Length: 99999999999999999999\r\n\r\nx", REFUSED, id="endless length"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n", REFUSED, id="bad chunk"),
        pytest.param(
            POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", REFUSED, id="two lengths"
        ),
        pytest.param(POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", REFUSED, id="length twice"),
        pytest.param(b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED, id="long path"),
        pytest.param(POST + b"X: " + b"a" * 300_000 + b"\r\n\r\n", REFUSED, id="long header"),
        pytest.param(b"POST /v1/score%00 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", REFUSED, id="zero byte"),
        pytest.param(b"GET /v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED, id="upward"),
        pytest.param(b"TRACE /v1/score HTTP/1.1\r\nHost: x\r\n\r\n", REFUSED, id="trace"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), REFUSED, id="TLS on a plain port"),
        pytest.param(random.Random(5).randbytes(4000), REFUSED, id="noise"),
    ],
)
def test_raw_requests(url: str, request_bytes: bytes, expected: Callable[[bytes], bool]) -> None:
    answer = raw(url, request_bytes)
    assert expected(answer), answer[:300]
    assert b"HTTP/1.1 5" not in answer


def test_endless_heads_are_refused_and_take_no_memory(victim: tuple[subprocess.Popen[bytes], str]) -> None:
    process, url = victim
    address = httpx.URL(url)
    before = memory(process)
    piece = b"X-Header: " + b"a" * 2**16 + b"\r\n"
    for _ in range(4):
        with socket.create_connection((address.host, address.port), timeout=20) as connection:
            connection.sendall(POST)
            with suppress(ConnectionError):  # once the service has had enough of it
                for _ in range(40 * 2**20 // len(piece)):
                    connection.sendall(piece)
            answer = b""
            with suppress(ConnectionError):
                while chunk := connection.recv(2**16):
                    answer += chunk
            assert error_of(answer) == (431, "head_too_large")
    assert memory(process) - before < 40 * 2**20


def test_connections_that_say_nothing_or_half_of_it_are_closed(url: str) -> None:
    address = httpx.URL(url)
    silent, half, trickling = [
        [socket.create_connection((address.host, address.port), timeout=10 * TIMEOUT) for _ in range(50)]
        for _ in range(3)
    ]
    started = time.perf_counter()
    for connection in half:
        connection.sendall(POST + b"X: ")
    with httpx.Client(base_url=url) as client:
        for connection in trickling:
            connection.sendall(POST)
        while time.perf_counter() - started < TIMEOUT / 2:
            for connection in trickling:
                connection.sendall(b"a: b\r\n")
            assert client.post("/v1/score", content=JPEG).status_code == 200
            time.sleep(0.1)
    for connection in [*half, *trickling]:
        with connection:
            assert error_of(connection.recv(2**16)) == (408, "request_timeout")
            assert connection.recv(1) == b""
    for connection in silent:
        with connection:
            assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(random.Random(5).randbytes(4000), id="noise"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), id="TLS on a plain port"),
        pytest.param(POST + b"Content-Length: \r\n\r\n", id="no length"),
        pytest.param(POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", id="length of many digits"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", id="bad chunk"),
    ],
)
def test_what_is_no_http_is_told_so(url: str, request_bytes: bytes) -> None:
    assert error_of(raw(url, request_bytes)) == (400, "malformed_request")


@pytest.mark.parametrize("host", [b"x", b"127.0.0.1:80", b""])
@pytest.mark.parametrize("path", [b"/nothing", b"//", b"/v1", b"/v1/nothing", b"/.env", b"/livez/", b"/%00%ff"])
def test_foreign_paths_lead_nowhere(url: str, path: bytes, host: bytes) -> None:
    answer = raw(url, b"GET %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % (path, host))
    assert error_of(answer) == (404, "not_found")


@pytest.mark.parametrize("path", ["/v1/score", "/v1/score/batch"])
def test_a_body_of_nothing_but_parts_is_refused_at_once(url: str, path: str) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\na\r\n'
    body = part * (19 * 2**20 // len(part)) + b"--x--\r\n"
    answer = httpx.post(
        f"{url}{path}", content=body, headers={"content-type": "multipart/form-data; boundary=x"}, timeout=20
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert "parts" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "header",
    [
        b"X: " + b"a" * 5000,
        b"\r\n".join([b"X: a"] * 20),
        b'Content-Disposition: form-data; name="images"' + b";" * 4000,
    ],
    ids=["long", "many", "options"],
)
def test_headers_of_parts_are_short(url: str, header: bytes) -> None:
    body = (b"--x\r\n" + header + b"\r\n\r\na\r\n") * 1000 + b"--x--\r\n"
    answer = httpx.post(
        f"{url}/v1/score/batch", content=body, headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    "number", ["9" * 4300, "9" * 5000, "-" + "9" * 4300, str(2**63), "-1", "1.5", "1e400", "1e999999"]
)
@pytest.mark.parametrize(
    "tensor",
    [
        '{"name": "crops", "datatype": "UINT8", "shape": [NUMBER, 20, 24], "data": [1]}',
        '{"name": "crops", "datatype": "UINT8", "shape": [1, 20, NUMBER], "data": [1]}',
        '{"name": "images", "datatype": "BYTES", "shape": [NUMBER], "data": ["eA=="]}',
        '{"name": "images", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": NUMBER}}',
    ],
    ids=["count", "side", "images", "size"],
)
def test_numbers_beyond_all_measure(url: str, tensor: str, number: str) -> None:
    model = httpx.get(f"{url}/readyz").json()["model"]["name"]
    body = '{"inputs": [' + tensor.replace("NUMBER", number) + "]}"
    answer = httpx.post(f"{url}/v2/models/{model}/infer", content=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()) == {"error"}
    assert isinstance(answer.json()["error"], str)
    headers = {"inference-header-content-length": number}
    answer = httpx.post(f"{url}/v2/models/{model}/infer", content=body, headers=headers)
    assert (answer.status_code, set(answer.json())) == (400, {"error"})


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
def test_large_images_are_decoded_behind_the_event_loop(victim: tuple[subprocess.Popen[bytes], str]) -> None:
    process, url = victim
    assert httpx.post(f"{url}/v1/score", content=encoded(EYE.resize((2_000, 2_000)), "PNG")).status_code == 200
    worker = max(psutil.Process(process.pid).children(recursive=True), key=lambda each: int(each.memory_info().rss))
    nice = {thread.id: os.getpriority(os.PRIO_PROCESS, thread.id) for thread in worker.threads()}
    assert max(nice.values()) > nice[worker.pid]


def test_every_line_of_the_log_is_one_object_and_there_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = {"EYESTATE_MODEL": str(write_bundle(tmp_path)), "EYESTATE_WORKERS": "2", "EYESTATE_DRAIN": "0"}
    misspelt = {"EYESTATE_WORKER": "2", "EYESTATE_XYZ": "1"}
    with started_service(tmp_path, log, **settings, **misspelt) as (process, url):
        wait_until_ready(process, url, log)
        raw(url, b"garbage\r\n\r\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"eyestate", "eyestate.requests", "eyestate.server.lifecycle"} <= {line["logger"] for line in lines}
    assert len({json.dumps(line) for line in lines}) == len(lines)
    warnings = [line["message"] for line in lines if line["level"] == "warning" and "not a setting" in line["message"]]
    assert warnings == [  # once, not in each of the workers
        "EYESTATE_WORKER is not a setting; did you mean EYESTATE_WORKERS?",
        "EYESTATE_XYZ is not a setting",
    ]


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/healthz", "/schema.json", "/docs.json", "/v1", "/v2/nothing", "//"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_whatever_is_asked_for_it_is_no_fault_of_ours(url: str, method: str, path: str) -> None:
    assert httpx.request(method, url + path).status_code < 500


def test_the_service_is_what_its_openapi_document_says(url: str, tmp_path: Path) -> None:
    """Schemathesis makes requests from the document, good and bad, and compares the answers with it."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json"]
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    options = ["--checks", checks, "--max-examples", "12", "--seed", "1", "--phases", "examples,coverage,fuzzing"]
    result = subprocess.run(
        [*command, *options], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout[-6000:]


@pytest.mark.parametrize(
    ("query", "content_type"),
    [
        pytest.param("?" + "a&" * 25_000, "image/jpeg", id="query"),
        pytest.param("", "multipart/form-data" + ";" * 50_000, id="content type"),
    ],
)
def test_heads_that_take_long_to_parse(url: str, query: str, content_type: str) -> None:
    answer = httpx.post(f"{url}/v1/score{query}", content=JPEG, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
    assert "over the limit of 2,048 bytes" in answer.json()["error"]["message"]


WIDE = bytes(pa.schema([pa.field(f"c{number}", pa.binary()) for number in range(100_000)]).serialize())
LISTS = b"[" + b"[]," * 1_398_000 + b"[]]"
CROPS = b'{"inputs":[{"name":"crops","datatype":"UINT8","shape":[16384,8,8],"data":[%b]}]}'
HOLDING = {  # path, content type and body: what is parsed for a while
    "a million lists": ("/v2/models/brightness/infer", JSON, LISTS),
    "lists for crops": ("/v2/models/brightness/infer", JSON, CROPS % LISTS),
    "a million numbers": ("/v2/models/brightness/infer", JSON, CROPS % (b"7," * (2**20 - 1) + b"7")),
    "many columns": ("/v1/score/batch", ARROW, WIDE),
    "metrics": ("/metrics", "", b""),
}


@pytest.mark.parametrize("what", HOLDING)
def test_what_takes_long_to_parse_does_not_hold_up_others(url: str, what: str) -> None:
    path, content_type, body = HOLDING[what]
    stop = threading.Event()

    def attack() -> set[int]:
        statuses = set()
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stop.is_set():
                headers = {"content-type": content_type}
                answer = client.post(path, content=body, headers=headers) if body else client.get(path)
                statuses.add(answer.status_code)
        return statuses

    with ThreadPoolExecutor(4) as pool, httpx.Client(base_url=url, timeout=30) as client:
        attackers = [pool.submit(attack) for _ in range(4)]
        times = []
        try:
            for _ in range(30):
                started = time.perf_counter()
                assert client.post("/v1/score", content=JPEG).status_code == 200
                times.append(time.perf_counter() - started)
                time.sleep(0.02)
        finally:
            stop.set()
        statuses = set().union(*[attacker.result() for attacker in attackers])
    assert statuses <= {200, 400, 413, 429}
    assert statistics.median(times) < 0.25, times  # 2 s where four attackers' lists are parsed on the event loop
