"""What API keys may do, on a running service."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import httpx
import numpy as np

from eyestate.server.metrics import FRESH_SECONDS
from tests.bundles import write_bundle
from tests.service.conftest import PROJECT, started_service, wait_until_ready

OPEN = (PROJECT / "examples" / "open.jpg").read_bytes()


def test_a_quota_holds_for_its_key_alone(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("limited crops_per_second=0.02 burst=5\nother\n")
    log = tmp_path / "log"
    settings = {"EYESTATE_MODEL": str(write_bundle(tmp_path)), "EYESTATE_API_KEYS_FILE": str(keys)}
    limited, other = {"X-API-Key": "limited"}, {"Authorization": "Bearer other"}
    with started_service(tmp_path / "home", log, **settings) as (process, url):
        wait_until_ready(process, url, log)
        with httpx.Client(base_url=url, timeout=60) as client:

            def batch(crops: int, key: dict[str, str]) -> httpx.Response:
                files = [("images", OPEN)] * crops
                return client.post("/v1/score/batch", files=files, headers=key)

            assert batch(5, limited).status_code == 200
            refused = client.post("/v1/score", content=OPEN, headers=limited)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "quota_exceeded"
            assert "0.02 crops a second" in refused.json()["error"]["message"]
            assert 1 <= int(refused.headers["retry-after"]) <= 50
            photo = client.post("/v1/faces", content=OPEN, headers=limited)
            assert photo.status_code == 429
            tensor = {"name": "crops", "datatype": "UINT8", "shape": [1, 8, 8], "data": np.zeros(64, int).tolist()}
            infer = client.post("/v2/models/brightness/infer", json={"inputs": [tensor]}, headers=limited)
            assert infer.status_code == 429
            assert "retry-after" in infer.headers
            too_many = batch(6, limited)
            assert (too_many.status_code, too_many.json()["error"]["code"]) == (413, "body_too_large")
            assert batch(200, other).status_code == 200
            load = client.post("/v2/repository/models/brightness/load", headers=other)
            assert load.status_code == 403
            assert "EYESTATE_MODEL_CONTROL" in load.json()["error"]
            time.sleep(FRESH_SECONDS)
            counted = client.get("/metrics").text
            assert 'eyestate_rejected_total{reason="quota_exceeded"} 3.0' in counted
            assert 'eyestate_requests_over_quota_total{route="/v1/faces"} 1.0' in counted
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "Traceback" not in log.read_text()
