"""Clients that offer to speak another protocol, and bodies that look like requests: one answer for each request."""

from __future__ import annotations

import io
import json
import socket
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
CROP = (EXAMPLES / "open.jpg").read_bytes()
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
MULTIPART = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n%b\r\n--x--\r\n' % CROP
OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n",
    "websocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n",
    "TLS": b"Upgrade: TLS/1.2\r\nConnection: upgrade\r\n",
    "several": b"Connection: Upgrade\r\nUpgrade: h2c, TLS/1.2\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n",
    "none": b"",
}


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(Image.open(EXAMPLES / "open.jpg").convert("L"))[None])
    return file.getvalue()


REQUESTS = {  # the bodies that are requests are no images, and no more than that
    "crop": (b"POST /v1/score", b"image/jpeg", CROP, 200),
    "multipart": (b"POST /v1/score/batch", b"multipart/form-data; boundary=x", MULTIPART, 200),
    "packed": (b"POST /v1/score/batch", b"application/x-npy", npy(), 200),
    "photo": (b"POST /v1/faces", b"image/jpeg", CROP, 200),
    "infer": (b"POST /v2/models/cascade/infer", b"application/json", (EXAMPLES / "infer.json").read_bytes(), 200),
    "smuggled": (b"POST /v1/score", b"image/jpeg", SMUGGLED, 415),
    "smuggled to faces": (b"POST /v1/faces", b"image/jpeg", SMUGGLED, 415),
    "smuggled to infer": (b"POST /v2/models/cascade/infer", b"application/json", SMUGGLED, 400),
    "smuggled to nobody": (b"POST /nothing", b"text/plain", SMUGGLED, 404),
    "readyz": (b"GET /readyz", b"text/plain", SMUGGLED, 200),
    "livez": (b"GET /livez", b"text/plain", SMUGGLED, 200),
    "page": (b"GET /", b"text/plain", SMUGGLED, 200),
}


def framed(body: bytes, *, chunked: bool) -> bytes:
    if not chunked:
        return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in (body[:9], body[9:]))
    return b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nX-Trailer: y\r\n\r\n"


def answers(url: str, *segments: bytes) -> list[tuple[int, bytes]]:
    """Status and body of all answers, until the service closes the connection."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=20) as connection:
        for segment in segments:
            connection.sendall(segment)
            time.sleep(0.02)
        file, found = connection.makefile("rb"), []
        while line := file.readline():
            status, length = int(line.split()[1]), 0
            while (header := file.readline()) != b"\r\n":
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            body = file.read(length)
            if status != 100:
                found.append((status, body))
        return found


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_is_ignored_and_the_request_answered_with_its_body(service: str, offer: str, name: str) -> None:
    line, content_type, body, status = REQUESTS[name]
    head = b"%b HTTP/1.1\r\nHost: x\r\nContent-Type: %b\r\n%b" % (line, content_type, OFFERS[offer])
    last = b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    waits = b"Expect" in head and status == 200 and line.startswith(b"GET")
    for chunked in (False, True):
        request = head + framed(body, chunked=chunked)
        end = request.index(b"\r\n\r\n") + 4
        for segments in ([request * 2 + last], [request[:end], request[end:] + request + last]):
            found = answers(service, *segments)
            if waits or (b"Expect" in head and name == "smuggled to nobody"):
                assert found[0][0] == status  # closed, since the body need not come once there is an answer
                continue
            assert [each for each, _ in found] == [status, status, 200]
            assert json.loads(found[-1][1])["status"] == "ready"
            assert found[0] == found[1]


def test_http2_clients_are_answered(service: str) -> None:
    """As curl --http2 and Java's HttpClient do it."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQBAAAAAAIAAAAA"}
    with httpx.Client(base_url=service) as client:
        for _ in range(3):
            assert client.post("/v1/score", files={"image": CROP}, headers=offer).json()["state"] == "open"


@pytest.mark.parametrize(
    "path", ["/v2%0Ax", "/v2/models/cascade%0A", "/v1/score%0a", "/livez%0A", "/static_content/%00x"]
)
def test_paths_with_control_characters_lead_nowhere(service: str, path: str) -> None:
    answer = httpx.get(service + path)
    assert answer.status_code == 404
    assert "x-request-id" in answer.headers
    assert answer.text.isprintable()


@pytest.mark.parametrize("path", ["/", "/v1/score", "/metrics", "/readyz", "/livez", "/v2/health/ready"])
def test_a_page_that_gave_its_name_to_this_computer_reads_nothing(service: str, path: str) -> None:
    answer = httpx.get(service + path, headers={"Host": "rebound.example:3000"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (421, "host_not_allowed")


def test_forwarded_addresses_are_not_believed(service: str, service_log: Path) -> None:
    headers = {"X-Forwarded-For": "203.0.113.77", "X-Forwarded-Proto": "https"}
    assert httpx.post(service + "/v1/score", headers=headers).status_code == 400
    assert "203.0.113.77" not in service_log.read_text()
