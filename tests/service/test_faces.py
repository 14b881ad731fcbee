"""``POST /v1/faces`` of the real service: photos as people take them, and whatever else is sent."""

from __future__ import annotations

import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import eyestate
from eyestate.bundle import models_dir
from eyestate.client import Client
from eyestate.images import MAX_SIDE
from eyestate.schema import BestResponse, FacesResponse, RankedPhoto
from tests.bundles import write_bundle
from tests.images import encoded, orientation
from tests.photos import (
    EYES,
    LEFT_EYE,
    RIGHT_EYE,
    collage,
    group,
    head,
    portrait,
    shut,
    sunglasses,
    without_face,
)
from tests.service.conftest import PROJECT, started_service, wait_until_ready
from tests.service.test_service import assert_error, sample, samples

FACE = (PROJECT / "docs" / "images" / "face.jpg").read_bytes()
COLLAGE = encoded(collage(), "JPEG", quality=92)
CAT = encoded(Image.fromarray(without_face()["cat"]), "JPEG")


def faces(client: httpx.Client, photo: bytes) -> list[dict[str, Any]]:
    """The faces of a photo, after a look at the form of the answer."""
    answer = client.post("/v1/faces", content=photo).raise_for_status().json()
    found: list[dict[str, Any]] = answer["faces"]
    width, height = answer["image"]["width"], answer["image"]["height"]
    for box in (box for face in found for box in (face["box"], *(eye["box"] for eye in face["eyes"].values()))):
        assert 0 <= box["left"] < box["left"] + box["width"] <= width
        assert 0 <= box["top"] < box["top"] + box["height"] <= height
    return found


def middle(box: dict[str, float]) -> tuple[float, float]:
    return box["left"] + box["width"] / 2, box["top"] + box["height"] / 2


class TestPhotos:
    def test_one_face(self, client: httpx.Client) -> None:
        (face,) = faces(client, encoded(portrait(), "PNG"))
        assert middle(face["eyes"]["right"]["box"]) == pytest.approx(RIGHT_EYE, abs=4)
        assert middle(face["eyes"]["left"]["box"]) == pytest.approx(LEFT_EYE, abs=4)
        for eye in face["eyes"].values():
            assert set(eye) == {"box", "score", "state"}
            assert eye["state"] == "open"
            assert eye["score"] > 0.9

    def test_scores_are_those_of_the_crops(self, client: httpx.Client) -> None:
        (face,) = faces(client, encoded(portrait(), "PNG"))
        for eye in face["eyes"].values():
            left, top, width, height = (int(eye["box"][side]) for side in ("left", "top", "width", "height"))
            crop = np.asarray(portrait())[top : top + height, left : left + width]
            assert eyestate.load().score([crop]).item() == pytest.approx(eye["score"], abs=1e-4)

    def test_several_faces(self, client: httpx.Client) -> None:
        found = faces(client, COLLAGE)
        areas = [face["box"]["width"] * face["box"]["height"] for face in found]
        assert len(areas) == 4
        assert areas == sorted(areas, reverse=True)
        assert {eye["state"] for face in found for eye in face["eyes"].values()} == {"open"}

    def test_no_face(self, client: httpx.Client) -> None:
        answer = client.post("/v1/faces", content=CAT).raise_for_status().json()
        manifest = eyestate.load().manifest
        assert answer == {
            "faces": [],
            "image": {"width": 451, "height": 300},
            "model": {"name": manifest.name, "version": manifest.version},
        }

    def test_multipart_and_quality(self, client: httpx.Client) -> None:
        response = client.post("/v1/faces?quality=true", files={"image": ("photo.jpg", FACE, "image/jpeg")})
        answer = FacesResponse.model_validate_json(response.raise_for_status().content)
        (face,) = answer.faces
        assert face.eyes.left
        assert face.eyes.left.quality
        assert face.eyes.left.quality.flags == []
        assert face.eyes.left.quality.width == face.eyes.left.box.width

    def test_grey(self, client: httpx.Client) -> None:
        assert len(faces(client, encoded(portrait().convert("L"), "JPEG"))) == 1

    def test_turned_by_exif(self, client: httpx.Client) -> None:
        stored = portrait().transpose(Image.Transpose.ROTATE_90)
        (face,) = faces(client, encoded(stored, "JPEG", exif=orientation(6)))
        assert middle(face["eyes"]["right"]["box"]) == pytest.approx(RIGHT_EYE, abs=4)

    def test_cut_off_eye_is_null(self, client: httpx.Client) -> None:
        photo = encoded(portrait().crop((203, 0, 512, 300)), "PNG")
        (face,) = client.post("/v1/faces", content=photo).json()["faces"]
        assert face["eyes"]["right"] is None
        assert set(face["eyes"]["left"]) == {"box", "score", "state"}

    def test_tiny(self, client: httpx.Client) -> None:
        assert faces(client, encoded(portrait().resize((8, 8)), "PNG")) == []

    def test_huge(self, client: httpx.Client) -> None:
        photo = encoded(portrait().resize((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC), "JPEG")
        (face,) = faces(client, photo)
        assert middle(face["eyes"]["left"]["box"]) == pytest.approx(np.multiply(LEFT_EYE, MAX_SIDE / 512), abs=32)

    def test_concurrent_photos_get_their_own_faces(self, client: httpx.Client) -> None:
        photos = [FACE, COLLAGE, CAT, FACE, COLLAGE]
        with ThreadPoolExecutor(5) as pool:
            assert [*pool.map(lambda photo: len(faces(client, photo)), photos)] == [1, 4, 0, 1, 4]


class TestVerdict:
    def test_who_blinks_and_of_whom_it_cannot_be_told(self, client: httpx.Client) -> None:
        heads = head(), shut(head(), *EYES), sunglasses(head(), (15, 12, 12), 0.9)
        response = client.post("/v1/faces?verdict=true", content=encoded(group(*heads), "PNG")).raise_for_status()
        answer = FacesResponse.model_validate_json(response.content)
        assert answer.verdict
        assert (answer.verdict.all_open, answer.verdict.closed, answer.verdict.cannot_tell) == (False, [1], [2])
        people = [face.verdict for face in answer.faces if face.verdict]
        assert [person.state for person in people] == ["open", "closed", "cannot_tell"]
        assert [person.reasons for person in people] == [[], [], ["eye_shaded"]]
        assert all(set(eye) == {"box", "score", "state"} for eye in response.json()["faces"][0]["eyes"].values())

    def test_everybody_and_nobody(self, client: httpx.Client) -> None:
        for photo, all_open in ((FACE, True), (CAT, None)):
            answer = client.post("/v1/faces?verdict=true&quality=true", content=photo).raise_for_status().json()
            assert answer["verdict"] == {"all_open": all_open, "closed": [], "cannot_tell": []}

    def test_it_is_left_out_unless_asked_for(self, client: httpx.Client) -> None:
        answer = client.post("/v1/faces", content=FACE).json()
        assert set(answer) == {"faces", "image", "model"}
        assert set(answer["faces"][0]) == {"box", "confidence", "eyes"}
        assert_error(client.post("/v1/faces?verdict=1", content=FACE), 422, "invalid_request")


def photos(*contents: bytes) -> list[tuple[str, bytes]]:
    return [("images", content) for content in contents]


class TestBest:
    def test_the_photo_in_which_nobody_blinks(self, client: httpx.Client) -> None:
        blinking = encoded(group(head(), shut(head(), *EYES)), "PNG")
        hidden = encoded(group(head(), sunglasses(head(), (15, 12, 12), 0.9)), "PNG")
        alone = encoded(group(head()), "PNG")
        good = encoded(group(head(), head()), "PNG")
        response = client.post("/v1/faces/best", files=photos(blinking, CAT, hidden, b"no photo", good, alone))
        answer = BestResponse.model_validate_json(response.raise_for_status().content)
        assert answer.best == 4
        assert answer.ranking[0] == 4
        assert set(answer.ranking[1:3]) == {2, 5}  # nobody blinks there
        assert answer.ranking[3:] == [0, 1]
        reasons = [photo.reason if isinstance(photo, RankedPhoto) else photo.error.code for photo in answer.photos]
        assert reasons == [
            "1 of 2 with open eyes, 1 blinking",
            "no face is found",
            "1 of 2 with open eyes, 1 cannot be told",
            "unsupported_image",
            "all 2 with open eyes",
            "all 1 with open eyes, 1 missing",
        ]
        assert [answer.ranking.index(place) + 1 for place in answer.ranking] == [
            photo.rank for place in answer.ranking if isinstance(photo := answer.photos[place], RankedPhoto)
        ]

    def test_without_a_face_none_is_best(self, client: httpx.Client) -> None:
        answer = client.post("/v1/faces/best", files=photos(CAT, b"no photo")).raise_for_status().json()
        assert answer["best"] is None
        assert answer["ranking"] == [0]

    def test_its_client(self, service: str) -> None:
        with Client(service) as client:
            assert client.best_photo([CAT, FACE]).best == 1
            verdict = client.find_faces(FACE, verdict=True).verdict
            assert verdict
            assert verdict.all_open

    def test_twenty_but_no_more(self, client: httpx.Client) -> None:
        small = encoded(portrait().resize((64, 64)), "JPEG")
        assert len(client.post("/v1/faces/best", files=photos(*[small] * 20)).json()["photos"]) == 20
        assert_error(client.post("/v1/faces/best", files=photos(*[small] * 21)), 413, "body_too_large")

    def test_other_bodies(self, client: httpx.Client) -> None:
        assert_error(client.post("/v1/faces/best", content=FACE), 415, "unsupported_media_type")
        assert_error(client.post("/v1/faces/best", files=[("image", FACE)]), 422, "invalid_request")
        assert_error(client.get("/v1/faces/best"), 405, "method_not_allowed")


class TestRefusals:
    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            pytest.param(b"", 400, "empty_body", id="empty"),
            pytest.param(b"two faces\n" * 9, 415, "unsupported_image", id="text"),
            pytest.param(FACE[: len(FACE) // 2], 422, "corrupt_image", id="truncated"),
            pytest.param(encoded(Image.new("RGB", (7, 7)), "PNG"), 422, "image_too_small", id="too small"),
            pytest.param(encoded(Image.new("RGB", (8, 4097)), "PNG"), 413, "image_too_large", id="too large"),
        ],
    )
    def test_bad_photo(self, client: httpx.Client, body: bytes, status: int, code: str) -> None:
        assert_error(client.post("/v1/faces", content=body), status, code)

    def test_two_photos(self, client: httpx.Client) -> None:
        response = client.post("/v1/faces", files=[("image", FACE), ("image", CAT)])
        assert_error(response, 422, "invalid_request")
        assert "request of its own" in response.json()["error"]["message"]

    def test_wrong_method_and_type(self, client: httpx.Client) -> None:
        response = client.get("/v1/faces")
        assert_error(response, 405, "method_not_allowed")
        assert response.headers["allow"] == "POST"
        response = client.post("/v1/faces", content=FACE, headers={"content-type": "application/json"})
        assert_error(response, 415, "unsupported_media_type")

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cut=st.integers(0, 400), place=st.integers(0, len(FACE) - 1), rest=st.binary(max_size=40))
    def test_never_fails(self, client: httpx.Client, cut: int, place: int, rest: bytes) -> None:
        photo = FACE[:place] + rest + FACE[place + cut :]
        response = client.post("/v1/faces", content=photo)
        assert response.status_code in {200, 413, 415, 422}


def test_metrics_count_what_was_found(client: httpx.Client) -> None:
    before = samples(client)
    for photo in (COLLAGE, CAT, b"no photo"):
        client.post("/v1/faces", content=photo)
    after = samples(client)
    changes = {key: after[key] - before.get(key, 0) for key in after}
    assert changes[sample("eyestate_faces_total")] == 4
    assert changes[sample("eyestate_photos_without_face_total")] == 1
    assert changes[sample("eyestate_phase_duration_seconds_count", phase="detect")] == 2
    assert changes[sample("eyestate_crops_total", state="open")] == 8
    assert changes[sample("eyestate_requests_total", route="/v1/faces", status="200")] == 2
    assert changes[sample("eyestate_requests_total", route="/v1/faces", status="415")] == 1


def test_a_service_without_a_detector_says_so_and_scores(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "models")
    shutil.copytree(models_dir() / "mtcnn", tmp_path / "models" / "mtcnn")
    (tmp_path / "models" / "mtcnn" / "onet.onnx").write_bytes(b"damaged")
    log = tmp_path / "log"
    environment = {"EYESTATE_MODELS": str(tmp_path / "models"), "EYESTATE_MODEL": bundle.name, "EYESTATE_DRAIN": "0"}
    with started_service(tmp_path / "home", log, **environment) as (process, url):
        wait_until_ready(process, url, log)
        assert_error(httpx.post(f"{url}/v1/faces", content=FACE), 501, "no_detector")
        assert httpx.post(f"{url}/v1/score", content=FACE).json()["model"]["name"] == "brightness"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "faces cannot be detected" in log.read_text()
    assert "Traceback" not in log.read_text()
