"""A second model that scores unseen beside the one that answers."""

from __future__ import annotations

import io
import json
import re
import signal
import time
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from eyestate.server.metrics import FRESH_SECONDS
from tests.bundles import write_bundle
from tests.service.conftest import started_service, wait_until_ready


def grey(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (24, 24), value).save(file, "PNG")
    return file.getvalue()


def counted(client: httpx.Client) -> dict[str, float]:
    text = client.get("/metrics").raise_for_status().text
    found = re.findall(r"^eyestate_shadow_(\w+)_total (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_only_the_disagreement_is_told(tmp_path: Path) -> None:
    answering = write_bundle(tmp_path)
    second = write_bundle(tmp_path, "second") / "manifest.json"
    manifest = json.loads(second.read_text())
    manifest["thresholds"]["open"] = 0.95
    second.write_text(json.dumps(manifest))
    settings = {
        "EYESTATE_MODEL": str(answering),
        "EYESTATE_SHADOW_MODEL": str(second.parent),
        "EYESTATE_SHADOW_SHARE": "1",
    }
    with started_service(tmp_path / "home", tmp_path / "log", **settings) as (process, url):
        wait_until_ready(process, url, tmp_path / "log")
        with httpx.Client(base_url=url, timeout=60) as client:
            deadline = time.monotonic() + 60
            while counted(client)["crops"] < 4 and time.monotonic() < deadline:
                answer = client.post("/v1/score", content=grey(220)).raise_for_status().json()
                assert answer["state"] == "open"
                assert answer["model"]["name"] == "brightness"
                time.sleep(0.5)
            time.sleep(2 * FRESH_SECONDS)
            before = counted(client)
            assert before["disagreements"] == before["crops"] >= 4, "0.86 is open, and uncertain by the second model"
            file = io.BytesIO()
            np.save(file, np.zeros((1_000, 24, 24), np.uint8))
            npy = {"content-type": "application/x-npy"}
            client.post("/v1/score/batch", content=file.getvalue(), headers=npy).raise_for_status()
            time.sleep(2 * FRESH_SECONDS)
            assert counted(client)["dropped"] == before["dropped"] + 1_000
            client.post("/v1/score", content=grey(0)).raise_for_status()
            deadline = time.monotonic() + 20
            while counted(client)["crops"] == before["crops"] and time.monotonic() < deadline:
                time.sleep(0.5)
            assert counted(client)["disagreements"] == before["disagreements"], "closed by both"
            assert counted(client)["crops"] == before["crops"] + 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
