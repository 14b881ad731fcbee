from __future__ import annotations

import shutil

import pytest

from tests.tools.harness.conftest import reply, tiny_server
from tools.harness.wrk import WrkError, drive, parse

PRINTED = """\
Running 2s test @ http://127.0.0.1:1/v1/score
  64 requests in 2.00s, 1.00MB read
  Non-2xx or 3xx responses: 4
{"seconds": 2.0, "statuses": {"503": 4, "200": 60}, "p50_ms": 1.5, "p99_ms": 3.0, "max_ms": 9.0, \
"errors": {"connect": 0, "read": 1, "write": 0, "timeout": 0}}
"""


def test_parse() -> None:
    load = parse(PRINTED)
    assert load.statuses == {"200": 60, "503": 4}
    assert load.requests_per_second == 30
    assert load.errors["read"] == 1


def test_parse_nothing() -> None:
    with pytest.raises(WrkError, match="no result"):
        parse("unable to connect to 127.0.0.1:1 Connection refused")


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_drive_counts_answers_by_status() -> None:
    with tiny_server(lambda number: reply(200 if number % 3 else 429)) as server:
        load, observed = drive(
            f"http://127.0.0.1:{server.port}/v1/score",
            b"crop",
            "image/jpeg",
            connections=2,
            seconds=1,
            observe=lambda: 7,
        )
    assert observed == 7
    assert 0 <= len(server.requests) - sum(load.statuses.values()) <= 2  # those under way when wrk stopped
    assert load.statuses["200"] == pytest.approx(2 * load.statuses["429"], abs=4)
    assert load.requests_per_second == pytest.approx(load.statuses["200"] / load.seconds)
    assert 0 < load.p50_ms <= load.p99_ms <= load.max_ms
    assert server.requests[0].endswith(b"crop")
    assert b"content-type: image/jpeg" in server.requests[0].lower()


def test_without_wrk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(WrkError, match="apt install wrk"):
        drive("http://127.0.0.1:1/", b"", "", connections=1, seconds=1, observe=lambda: None)
