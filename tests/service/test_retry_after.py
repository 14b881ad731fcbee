"""How long an overloaded service tells its clients to wait, over HTTP, with a network whose speed is known."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from eyestate.media_types import NPY, OCTET_STREAM
from tests.bundles import write_bundle
from tools.harness.servers import Probe, free_port, running_server

EYE = (Path(__file__).parents[2] / "examples" / "open.jpg").read_bytes()
CROPS = 4_096
INFERENCE_SECONDS, CROP_SECONDS = 0.02, 0.0008  # so a crop alone takes nineteen times as long as one of a full batch
SERVE = f"""
import sys, time, uvicorn
from eyestate.bundle import load_model
from eyestate.scorer import Network
from eyestate.server import app
from eyestate.settings import settings

class Slow(Network):
    def run(self, batch):
        time.sleep({INFERENCE_SECONDS} + {CROP_SECONDS} * len(batch))
        return super().run(batch)

app.open_scorer = Slow
service = app.create_app(settings(), load_model())
uvicorn.run(app.wrap(service, service, settings()), port=int(sys.argv[1]), log_level="warning")
"""


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[httpx.Client]:
    """A service that rejects what it expects to take more than one and a half seconds."""
    settings = {"EYESTATE_MODEL": str(write_bundle(tmp_path)), "EYESTATE_TIMEOUT": "9", "EYESTATE_DEVICE": "cpu"}
    command = [sys.executable, "-c", SERVE, "{port}"]
    with (
        running_server(command, settings, Probe("/readyz"), tmp_path / "log", free_port()) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        yield client


def test_who_keeps_to_it_is_served_and_does_not_wait_for_long(slow: httpx.Client) -> None:
    """Single crops before the attack must not make full batches seem as slow as they are."""
    file = io.BytesIO()
    np.save(file, np.zeros((CROPS, 24, 24), np.uint8))

    def single(number: int) -> int:
        return slow.post("/v1/score", content=EYE, headers={"Content-Type": OCTET_STREAM}).status_code

    def attack() -> httpx.Response:
        return slow.post("/v1/score/batch", content=file.getvalue(), headers={"Content-Type": NPY})

    with ThreadPoolExecutor(8) as others:
        assert set(others.map(single, range(40))) == {200}
        first = others.submit(attack)
        while slow.get("/readyz").json()["waiting"] == 0:
            time.sleep(0.01)
        refused = attack()
        assert refused.status_code == 429
        told = int(refused.headers["retry-after"])
        work = 2 * CROPS * (CROP_SECONDS + INFERENCE_SECONDS / 64)
        assert 1 <= told <= 3 * work
        time.sleep(told)
        assert attack().status_code == 200
        assert first.result().status_code == 200
