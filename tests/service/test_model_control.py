"""A model that takes the place of another in a running service, by Triton's own client."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from eyestate.server.metrics import FRESH_SECONDS
from tests.bundles import write_bundle
from tests.service.conftest import PROJECT, started_service, wait_until_ready

OPEN = (PROJECT / "examples" / "open.jpg").read_bytes()
ADMIN = {"Authorization": "Bearer root"}
USER = {"Authorization": "Bearer user"}


class Service(NamedTuple):
    process: psutil.Process
    url: str
    models: Path


def versions(service: Service, connections: int = 8) -> set[str]:
    """The versions that answer, of all workers as far as so many connections meet them."""
    answers = [httpx.get(f"{service.url}/readyz").raise_for_status().json() for _ in range(connections)]
    return {answer["model"]["version"] for answer in answers}


def write_version(models: Path, folder: str, version: str) -> None:
    path = write_bundle(models, folder) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "brightness", "version": version}))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("control")
    models = folder / "models"
    for name, version in (
        ("brightness", "1.0.0"),
        ("brightness_2", "2.0.0"),
        ("brightness_3", "3.0.0"),
        ("bad", "4.0.0"),
    ):
        write_version(models, name, version)
    (models / "bad" / "model.onnx").write_bytes(b"damaged")
    (folder / "keys").write_text("root admin=true\nuser\n")
    settings = {
        "EYESTATE_MODELS": str(models),
        "EYESTATE_MODEL": "brightness",
        "EYESTATE_WORKERS": "2",
        "EYESTATE_MODEL_CONTROL": "true",
        "EYESTATE_API_KEYS_FILE": str(folder / "keys"),
    }
    with started_service(folder / "home", folder / "log", **settings) as (process, url):
        wait_until_ready(process, url, folder / "log")
        yield Service(psutil.Process(process.pid), url, models)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "Traceback" not in (folder / "log").read_text()


@pytest.fixture
def client(service: Service) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.url.removeprefix("http://")) as client:
        yield client


def test_all_workers_change_to_another_model_without_a_request_that_fails(
    service: Service, client: triton.InferenceServerClient
) -> None:
    stop, statuses = threading.Event(), []

    def keep_asking() -> None:
        while not stop.is_set():
            statuses.append(httpx.post(f"{service.url}/v1/score", content=OPEN, headers=USER).status_code)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        client.load_model("brightness_2", headers=ADMIN)
        assert versions(service) == {"2.0.0"}
    finally:
        stop.set()
        asking.join()
    assert set(statuses) == {200}
    assert client.is_model_ready("brightness", "2.0.0", headers=USER)
    time.sleep(2 * FRESH_SECONDS)
    told = httpx.get(f"{service.url}/metrics").text
    assert [
        line.split('version="')[1][:5] for line in told.splitlines() if line.startswith("eyestate_model_info{")
    ] == ["2.0.0"]
    index = {model["name"]: model["state"] for model in client.get_model_repository_index(headers=USER)}
    assert index == {
        "bad": "UNAVAILABLE",
        "brightness": "UNAVAILABLE",
        "brightness_2": "READY",
        "brightness_3": "UNAVAILABLE",
    }


def test_a_worker_that_starts_later_serves_it_too(service: Service, client: triton.InferenceServerClient) -> None:
    client.load_model("brightness_3", headers=ADMIN)
    victim = service.process.children()[0]
    victim.kill()
    deadline = time.monotonic() + 60
    while "eyestate_worker_starts_total 3.0" not in httpx.get(f"{service.url}/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert versions(service) == {"3.0.0"}


@pytest.mark.parametrize(
    ("act", "name", "message"),
    [
        ("load_model", "bad", "is damaged .*; the present model is served on"),
        ("load_model", "nothing", "there is no model 'nothing' in the repository"),
        ("load_model", "../models/brightness", "there is no"),
        ("unload_model", "brightness_2", "is the model that is served; load another in its place"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    service: Service, client: triton.InferenceServerClient, act: str, name: str, message: str
) -> None:
    client.load_model("brightness_2", headers=ADMIN)
    with pytest.raises(InferenceServerException, match=message):
        getattr(client, act)(name, headers=ADMIN)
    assert versions(service) == {"2.0.0"}
    client.unload_model("brightness", headers=ADMIN)  # which is not loaded


def test_only_who_may_changes_it(service: Service, client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="this API key may not load models"):
        client.load_model("brightness", headers=USER)
    with pytest.raises(InferenceServerException, match="API key is missing"):
        client.load_model("brightness")
    with pytest.raises(InferenceServerException, match="not loaded from pages"):
        client.load_model("brightness", headers=ADMIN | {"Origin": "https://evil.example"})


@pytest.mark.parametrize("body", ['{"parameters": {"config": "{}"}}', '{"parameters": 5}', '{"parameters": [5]}', "[]"])
def test_models_are_loaded_as_they_are(service: Service, body: str) -> None:
    answer = httpx.post(f"{service.url}/v2/repository/models/brightness/load", content=body, headers=ADMIN)
    assert answer.status_code == 400
