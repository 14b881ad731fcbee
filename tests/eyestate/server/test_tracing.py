from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator

import pytest

from eyestate.server import tracing


@pytest.fixture(params=["hangs", "is down"])
def collector(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a collector that takes connections and says nothing, or of one that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        if request.param == "is down":
            server.close()
            yield "http://127.0.0.1:9"
        else:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(
    collector: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.3)
    configured = tracing.configured()
    assert configured is not None
    configured.end(configured.begin({"method": "POST", "headers": []}, "/v1/score", "id"), 200, 0.1, 0.1)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, "eyestate"):
        configured.close()
    assert time.monotonic() - began < 2
    assert "the last spans are lost" in caplog.text
