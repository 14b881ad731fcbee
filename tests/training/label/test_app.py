"""The real server over HTTP."""

from __future__ import annotations

import base64
import io
import json
import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from eyestate.images import decode
from tests.images import encoded
from tests.training.label.desks import drawn, made_task, served
from training.data.datasets import CLOSED, OPEN, Crop
from training.data.labels import Answer, read_answers
from training.label.app import IMPORT_BYTES, IMPORT_BYTES_PER_CROP, MAX_ANSWER_BYTES, SIDES

HOSTILE = ["\udcff.png", "=1+1.png", "../secret.png", "<script>.png", "眼 %2e.png"]
CROPS = drawn(5) + [replace(crop, name=name) for crop, name in zip(drawn(12)[5:], HOSTILE, strict=False)]
FIRST = CROPS[0].name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def client(folder: Path) -> Iterator[httpx.Client]:
    with served(made_task(folder, CROPS)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def state(client: httpx.Client, annotator: str = "anna") -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/api/state", params={"annotator": annotator}).raise_for_status().json()
    return answer


def say(client: httpx.Client, **changes: Any) -> httpx.Response:
    said = {"id": uuid.uuid4().hex, "annotator": "anna", "file": FIRST, "label": "open", **changes}
    body = json.dumps({"store": state(client)["store"], **said})  # httpx' own cannot write names that are no UTF-8
    return client.post("/api/answer", content=body, headers={"Content-Type": "application/json"})


def test_an_answer_is_on_disk_when_the_reply_comes(client: httpx.Client, folder: Path) -> None:
    assert say(client).json() == {"saved": True}
    assert read_answers(folder / "label" / "answers.csv") == {FIRST: Answer(FIRST, OPEN, 1, 1)}
    say(client, annotator="ben", label="closed")
    assert read_answers(folder / "label" / "answers.csv") == {FIRST: Answer(FIRST, None, 2, 1)}
    assert state(client)["votes"] == [[0, "anna", "open"], [0, "ben", "closed"]]


def test_the_queue_is_shown_in_its_order(client: httpx.Client) -> None:
    shown = state(client)
    assert [crop["file"] for crop in shown["crops"]] == [crop.name for crop in CROPS]
    assert shown["crops"][1]["p_open"] == pytest.approx(0.5001)
    assert "fine-tune" in shown["go_on"]


def test_undo(client: httpx.Client) -> None:
    name = uuid.uuid4().hex
    say(client, id=name)
    undo = {"store": state(client)["store"], "id": name, "annotator": "anna"}
    for _ in range(2):
        assert client.post("/api/undo", json=undo).json() == {"undone": True}
        assert state(client)["votes"] == []
    assert client.post("/api/undo", json={**undo, "id": "unknown"}).json() == {"undone": False}


def test_answers_at_once(client: httpx.Client) -> None:
    def answer(number: int) -> int:
        return say(client, annotator=f"a{number % 3}", label=("open", "closed")[number % 2]).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(answer, range(24))) == {200}
    assert len(state(client)["votes"]) == 3


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_names_are_only_names(client: httpx.Client, folder: Path, name: str) -> None:
    assert say(client, file=name).status_code == 200
    assert name in read_answers(folder / "label" / "answers.csv")
    votes = client.get("/api/export/votes.csv").content
    assert client.post("/api/import", content=votes, headers={"Content-Type": "text/csv"}).json()["unchanged"] == 1


def test_crops_are_enlarged_smoothly_or_left_alone(client: httpx.Client) -> None:
    digest = state(client)["crops"][0]["image"]
    for size, side in (*SIDES.items(), ("exact", 24)):
        response = client.get(f"/crops/{digest}/{size}.png").raise_for_status()
        assert Image.open(io.BytesIO(response.content)).size == (side, side)
        assert "immutable" in response.headers["cache-control"]
    assert (decode(response.content) == decode(CROPS[0].data)).all()


@pytest.mark.parametrize(
    "path",
    [
        "/crops/0000.png",
        "/crops/0000/large.png",
        "/crops/../page.py/large.png",
        "/crops/%2e%2e%2f%2e%2e%2fetc%2fpasswd/large.png",
        "/../app.py",
        "/app.py",
        "/%2e%2e/%2e%2e/pyproject.toml",
        "/api/export/..%2fanswers.sqlite3",
        "/api/export/answers.sqlite3",
    ],
)
def test_nothing_else_is_served(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("size", ["huge", "large.png", "0"])
def test_other_sizes_are_refused(client: httpx.Client, size: str) -> None:
    assert client.get(f"/crops/{state(client)['crops'][0]['image']}/{size}.png").status_code == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "[::1"])
def test_other_hosts_are_refused(client: httpx.Client, host: str) -> None:
    answer = client.get("/api/state", headers={"Host": host})
    assert answer.status_code == 400
    assert "--allow-host" in answer.json()["error"]["message"]


@pytest.mark.parametrize("host", ["localhost", "192.168.1.20", "192.168.1.20:8765", "[::1]:8765", socket.gethostname()])
def test_addresses_and_the_machines_own_names_are_known(client: httpx.Client, host: str) -> None:
    assert client.get("/api/state", headers={"Host": host}).status_code == 200


def test_a_name_can_be_allowed(folder: Path) -> None:
    with served(made_task(folder, CROPS), ("Labels.example.org",)) as url:
        assert httpx.get(url, headers={"Host": "labels.example.org:80"}).status_code == 200
        assert httpx.get(url, headers={"Host": "other.example.org"}).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/api/answer", "/api/undo", "/api/import"])
def test_other_pages_may_change_nothing(client: httpx.Client, path: str, headers: dict[str, str]) -> None:
    said = {"store": state(client)["store"], "id": "0" * 32, "annotator": "anna", "file": FIRST, "label": "open"}
    response = client.post(path, json=said, headers=headers)
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "foreign_page"
    assert state(client)["votes"] == []


def test_the_page_itself_may(client: httpx.Client) -> None:
    client.headers["Origin"] = str(client.base_url).rstrip("/")
    client.headers["Sec-Fetch-Site"] = "same-origin"
    assert say(client).status_code == 200


def test_the_page_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    for path in ("/", "/page.css", "/page.js"):
        response = client.get(path).raise_for_status()
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "https://" not in response.text
        assert "server" not in response.headers


@pytest.mark.parametrize("label", ["", "maybe", "Open", None, 1, ["open"]])
def test_labels_that_are_refused(client: httpx.Client, label: Any) -> None:
    assert say(client, label=label).status_code == 422


@pytest.mark.parametrize(
    "changes", [{"file": "nowhere.png"}, {"id": "1"}, {"annotator": "=x"}, {"annotator": ""}, {"annotator": "\udcff"}]
)
def test_messages_that_are_refused(client: httpx.Client, changes: dict[str, Any]) -> None:
    response = say(client, **changes)
    assert response.status_code == 422
    assert response.json()["error"]["message"]
    assert state(client)["votes"] == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 5_000, b'{"store": 1}'])
def test_malformed_bodies(client: httpx.Client, body: bytes) -> None:
    response = client.post("/api/answer", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_media_types_that_any_page_can_send(client: httpx.Client, media_type: str) -> None:
    for path in ("/api/answer", "/api/import"):
        assert client.post(path, content=b"{}", headers={"Content-Type": media_type}).status_code == 415


def test_bodies_that_are_too_large(client: httpx.Client) -> None:
    images = sum(len(base64.b64encode(crop.data)) for crop in CROPS)
    import_limit = IMPORT_BYTES + len(CROPS) * IMPORT_BYTES_PER_CROP + images
    for path, limit in (("/api/answer", MAX_ANSWER_BYTES), ("/api/import", import_limit)):
        fits = client.post(path, content=b" " * limit, headers={"Content-Type": "application/json"})
        assert fits.status_code == 422
        response = client.post(path, content=b" " * (limit + 1), headers={"Content-Type": "application/json"})
        assert response.status_code == 413


def test_an_answer_for_another_store_waits(client: httpx.Client) -> None:
    response = say(client, store="another")
    assert response.status_code == 409


def test_an_import_is_all_or_nothing(client: httpx.Client) -> None:
    lines = [f"{FIRST},anna,open,2030-01-01T00:00Z", "nowhere.png,anna,open,2030-01-01T00:00Z"]
    body = "\n".join(["file,annotator,label,answered_at", *lines])
    response = client.post("/api/import", content=body, headers={"Content-Type": "text/csv"})
    assert response.status_code == 422
    assert response.json()["error"]["message"] == "nowhere.png is none of the crops to label"
    assert state(client)["votes"] == []


@pytest.mark.parametrize(("name", "media_type"), [("votes.csv", "text/csv"), ("label-studio.json", "application/json")])
def test_exports_bring_everything_to_another_store(
    client: httpx.Client, tmp_path: Path, name: str, media_type: str
) -> None:
    say(client)
    say(client, annotator="ben@example.org", label="unsure")
    exported = client.get(f"/api/export/{name}")
    assert exported.headers["content-disposition"] == f'attachment; filename="{name}"'
    with served(made_task(tmp_path / "other", CROPS)) as url, httpx.Client(base_url=url, timeout=60) as other:
        imported = other.post("/api/import", content=exported.content, headers={"Content-Type": media_type})
        assert imported.json() == {"changed": 2, "unchanged": 0, "outdated": 0}
        assert other.get("/api/export/votes.csv").text == client.get("/api/export/votes.csv").text
        assert other.get("/api/export/answers.csv").text == client.get("/api/export/answers.csv").text


def test_an_export_of_large_crops_fits_again(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 2_800, 2_800), dtype=np.uint8)
    crops = [Crop(f"{number}.bmp", encoded(Image.fromarray(pixels), "BMP")) for number, pixels in enumerate(noise)]
    with served(made_task(tmp_path, crops)) as url, httpx.Client(base_url=url, timeout=60) as client:
        tasks = client.get("/api/export/label-studio.json").json()
        choice = {"from_name": "eye", "to_name": "image", "type": "choices", "value": {"choices": ["Open"]}}
        for task in tasks:
            task["annotations"] = [{"completed_by": 1, "result": [choice]}] * 2
        body = json.dumps(tasks)
        assert len(body) > IMPORT_BYTES
        headers = {"Content-Type": "application/json"}
        assert client.post("/api/import", content=body, headers=headers).json()["changed"] == len(crops)


def test_answers_of_unknown_people(client: httpx.Client) -> None:
    body = f"file,label,annotators,votes_open\n{FIRST},closed,3,1\n"
    headers = {"Content-Type": "text/csv"}
    assert client.post("/api/import?name=../team.csv", content=body, headers=headers).json()["changed"] == 3
    assert {who for _, who, _ in state(client)["votes"]} == {"team 1", "team 2", "team 3"}
    assert client.get("/api/export/answers.csv").text.splitlines()[1] == f"{FIRST},closed,3,1"


def test_the_labelling_config(client: httpx.Client) -> None:
    assert client.get("/api/export/label-studio.xml").text.startswith("<View>")


def test_a_later_queue_keeps_earlier_answers(tmp_path: Path) -> None:
    with served(made_task(tmp_path, CROPS[:3])) as url, httpx.Client(base_url=url, timeout=60) as client:
        say(client, label="closed")
    with served(made_task(tmp_path, CROPS[3:5])) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert state(client)["votes"] == []
        say(client, file=CROPS[3].name)
    answers = read_answers(tmp_path / "label" / "answers.csv")
    assert {file: answer.label for file, answer in answers.items()} == {FIRST: CLOSED, CROPS[3].name: OPEN}
