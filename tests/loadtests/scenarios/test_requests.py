from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest

from eyestate.errors import InputError
from eyestate.images import decode
from eyestate.media_types import NPY
from eyestate.server.packed import from_npy
from loadtests.scenarios.requests import Body, api_key, request_bodies, response_error, retry_after, synthetic_images
from tools.harness import crops

SINGLE = Body("/v1/score", b"", {}, 1)
MANY = Body("/v1/score/batch", b"", {}, 2)
PACKED = Body("/v1/score/batch", b"", {"Accept": NPY}, 2)


def npy(*scores: float) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(scores, np.float32))
    return file.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "crops.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(3):
            file.writestr(f"{number}.jpg", crops.jpeg(crops.eye(20 + number)))
        file.writestr("broken.jpg", b"this is no image")
    return path


class TestBodies:
    def test_rendered_eyes_differ(self) -> None:
        images = synthetic_images()
        assert len(set(images)) == len(images)
        assert decode(images[0]).shape == (crops.SIDE, crops.SIDE)

    def test_archive_yields_single_crops_without_the_broken_one(self, archive: Path) -> None:
        found = request_bodies("single", str(archive), 5)
        assert [decode(body.data).shape for body in found] == [(20, 20), (21, 21), (22, 22)]

    def test_multipart(self, archive: Path) -> None:
        body = request_bodies("multipart", str(archive), 5)[0]
        request = httpx.Request("POST", "http://x", content=body.data, headers=dict(body.headers))
        assert request.headers["Content-Type"].startswith("multipart/form-data; boundary=")
        assert body.data.count(b'name="images"') == body.crops == 5

    def test_packed(self, archive: Path) -> None:
        body = request_bodies("packed", str(archive), 5)[0]
        assert from_npy(body.data).shape == (5, crops.SIDE, crops.SIDE)

    def test_input_without_images_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "text.jpg").write_bytes(b"this is no image")
        with pytest.raises(InputError, match="no image that can be read"):
            request_bodies("single", str(tmp_path), 1)
        with pytest.raises(InputError, match="there is no"):
            request_bodies("single", str(tmp_path / "none"), 1)


class TestResponseError:
    @pytest.mark.parametrize(
        ("body", "answer"),
        [
            (SINGLE, b'{"score": 1.0, "state": "open"}'),
            (MANY, b'{"results": [{"score": 0.0}, {"score": 0.5}]}'),
            (PACKED, npy(0.25, 1)),
        ],
    )
    def test_none(self, body: Body, answer: bytes) -> None:
        assert response_error(body, 200, answer) is None

    @pytest.mark.parametrize(
        ("body", "answer", "why"),
        [
            (SINGLE, b'{"score": 1.1}', "between 0 and 1"),
            (SINGLE, b'{"state": "open"}', "between 0 and 1"),
            (SINGLE, b"[]", "cannot be read"),
            (SINGLE, b"<html>", "cannot be read"),
            (MANY, b'{"results": [{"score": 0.5}]}', "1 scores for 2 crops"),
            (MANY, b'{"results": [{"score": 0.5}, {"error": {}}]}', "between 0 and 1"),
            (PACKED, npy(0.5, float("nan")), "between 0 and 1"),
            (PACKED, b"{}", "cannot be read"),
        ],
    )
    def test_some(self, body: Body, answer: bytes, why: str) -> None:
        assert why in str(response_error(body, 200, answer))

    def test_status(self) -> None:
        assert response_error(SINGLE, 500, json.dumps({"error": 1}).encode()) == 'status 500: {"error": 1}'


def test_rejections_say_when_to_retry() -> None:
    assert retry_after(429, "3") == retry_after(503, "3") == 3
    assert retry_after(200, "3") is None
    assert retry_after(429, None) is None
    assert retry_after(429, "Wed, 21 Oct 2026 07:28:00 GMT") is None


def test_api_key(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("of-the-file\nanother\n")
    assert api_key(None, {}) is None
    assert api_key(str(file), {}) == "of-the-file"
    assert api_key(str(file), {"EYESTATE_API_KEY": "of-the-environment"}) == "of-the-environment"
    file.write_text("\n")
    with pytest.raises(InputError, match="holds no API key"):
        api_key(str(file), {})
    with pytest.raises(InputError, match="cannot read"):
        api_key(str(tmp_path / "none"), {})
