"""The memory of a worker under everything at once that takes much of it, against docs/operations.md."""

from __future__ import annotations

import gzip
import io
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest
from PIL import Image

from eyestate.media_types import ARROW, JSON, MULTIPART, NPY
from eyestate.server.uploads import MAX_BODY_BYTES
from tests.bundles import write_bundle
from tests.eyestate.server.test_arrow_messages import bombs
from tests.eyestate.server.test_packed import npy, stream
from tests.service.conftest import PROJECT, started_service, wait_until_ready

MIB = 2**20
SIDE = 4_096
OPERATIONS = (PROJECT / "docs" / "operations.md").read_text()
REMAINDER = 320 * MIB  # that the process may keep: caches of libraries, and what small requests need


def encoded(mode: str, image_format: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (SIDE, SIDE), 128 if mode == "L" else (128,) * len(mode)).save(file, image_format)
    return file.getvalue()


PHOTO, TRANSPARENT = encoded("RGB", "JPEG"), encoded("RGBA", "PNG")
PADDED = PHOTO + bytes(19 * MIB)
PART = b'--x\r\nContent-Disposition: form-data; name="images"\r\n\r\n' + PHOTO + bytes(MIB) + b"\r\n"
NUMBERS = b",".join([b"%d" % (number % 256) for number in range(2**20)])
INFER = "/v2/models/brightness/infer"
ATTACKS = {  # path, content type, coding and body
    "padded photos": ("/v1/faces", "image/jpeg", "", PADDED),
    "transparent photos": ("/v1/faces", "image/png", "", TRANSPARENT),
    "transparent crops": ("/v1/score", "image/png", "", TRANSPARENT),
    "large crops in a form": ("/v1/score/batch", f"{MULTIPART}; boundary=x", "", PART * 40 + b"--x--\r\n"),
    "large crops in Arrow": ("/v1/score/batch", ARROW, "", stream(pa.array([PHOTO + bytes(MIB)] * 40, pa.binary()))),
    "colours": ("/v1/score/batch", NPY, "", npy(np.zeros((5_000, 64, 64, 3), np.uint8))),
    "gzip": (INFER, JSON, "gzip", gzip.compress(bytes(49 * MIB))),
    "deflated numbers": (
        INFER,
        JSON,
        "gzip",
        gzip.compress(b'{"inputs":[{"data":[' + b"7,20,133," * 460_000 + b"7]}]}"),
    ),
    "texts in Arrow": ("/v1/score/batch", ARROW, "", bombs()["of_schema"]),
}


def attack(url: str, name: str) -> int:
    path, content_type, coding, body = ATTACKS[name]
    headers = {"content-type": content_type, "content-encoding": coding or "identity"}
    return httpx.post(f"{url}{path}", content=body, headers=headers, timeout=100).status_code


def stalled(url: str) -> socket.socket:
    """A connection that has sent all of a large body but the last byte."""
    address = httpx.URL(url)
    connection = socket.create_connection((address.host, address.port), timeout=20)
    head = (
        f"POST /v1/score/batch HTTP/1.1\r\nHost: x\r\nContent-Type: {NPY}\r\nContent-Length: {MAX_BODY_BYTES}\r\n\r\n"
    )
    connection.sendall(head.encode() + bytes(MAX_BODY_BYTES - 1))
    return connection


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[tuple[str, psutil.Process]]:
    log = tmp_path / "log"
    settings = {"EYESTATE_MODEL": str(write_bundle(tmp_path)), "EYESTATE_DRAIN": "0"}
    with started_service(tmp_path, log, **settings) as (
        process,
        url,
    ):
        wait_until_ready(process, url, log)
        yield url, largest(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "Traceback" not in log.read_text()


def largest(process: subprocess.Popen[bytes]) -> psutil.Process:
    return max(psutil.Process(process.pid).children(recursive=True), key=lambda each: int(each.memory_info().rss))


def peak(worker: psutil.Process) -> int:
    status = Path(f"/proc/{worker.pid}/status").read_text()
    (kib,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kib) * 2**10


def test_ceiling(worker: tuple[str, psutil.Process]) -> None:
    url, process = worker
    (stated,) = re.findall(r"A worker takes at most ([\d,]+) MiB", OPERATIONS)
    before = process.memory_info().rss
    with ThreadPoolExecutor(24) as pool:
        connections = [stalled(url) for _ in range(6)]
        statuses = Counter(pool.map(attack, [url] * 6, ["padded photos", "transparent crops"] * 3))
        for connection in connections:
            connection.close()
        names = [*ATTACKS] * 2
        statuses.update(pool.map(attack, [url] * len(names), names))
    assert set(statuses) <= {200, 400, 413, 422, 429}
    assert statuses[200] > 5
    assert peak(process) < int(stated.replace(",", "")) * MIB
    assert process.memory_info().rss - before < REMAINDER
