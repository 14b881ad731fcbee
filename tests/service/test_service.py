"""The service over HTTP, as applications, dashboards and careless clients use it."""

from __future__ import annotations

import gzip
import io
import socket
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import eyestate
from eyestate.bundle import load_bundle
from eyestate.images import MAX_BYTES
from eyestate.server.metrics import FRESH_SECONDS
from eyestate.server.uploads import MAX_BODY_BYTES, MAX_IMAGES
from tests.service.conftest import PROJECT, started_service
from training.data.synthetic import labelled

OPEN = (PROJECT / "examples" / "open.jpg").read_bytes()
CLOSED = (PROJECT / "examples" / "closed.jpg").read_bytes()


def encoded(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], image_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format)
    return file.getvalue()


def assert_error(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert response.headers["content-type"] == "application/json"


class TestScore:
    @pytest.mark.parametrize(("image", "state"), [(OPEN, "open"), (CLOSED, "closed")], ids=["open", "closed"])
    @pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream", "IMAGE/PNG; x=y", None])
    def test_body_is_the_image(self, client: httpx.Client, image: bytes, state: str, content_type: str | None) -> None:
        headers = {"content-type": content_type} if content_type else {}
        answer = client.post("/v1/score", content=image, headers=headers).raise_for_status().json()
        assert answer["state"] == state
        assert (answer["score"] > 0.5) == (state == "open")
        manifest = eyestate.load().manifest
        assert answer["model"] == {"name": manifest.name, "version": manifest.version}

    def test_multipart(self, client: httpx.Client) -> None:
        answer = client.post("/v1/score", files={"note": ("n.txt", b"hello"), "image": ("eye.jpg", OPEN)})
        assert answer.raise_for_status().json()["state"] == "open"

    def test_equals_the_python_api(self, client: httpx.Client) -> None:
        crops = [pixels for pixels, _ in labelled(8, seed=7)]
        expected = eyestate.load().score(crops)
        got = [client.post("/v1/score", content=encoded(crop)).json()["score"] for crop in crops]
        np.testing.assert_allclose(got, expected, atol=2e-6)

    def test_concurrent_requests_get_their_own_scores(self, client: httpx.Client) -> None:
        images = [OPEN, CLOSED] * 64
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda image: client.post("/v1/score", content=image).json()["state"], images))
        assert answers == ["open", "closed"] * 64

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            pytest.param(b"", 400, "empty_body", id="empty"),
            pytest.param(b"not an image", 415, "unsupported_image", id="text"),
            pytest.param(b"<html></html>", 415, "unsupported_image", id="html"),
            pytest.param(OPEN[: len(OPEN) // 2], 422, "corrupt_image", id="truncated"),
            pytest.param(encoded(np.zeros((7, 7), np.uint8)), 422, "image_too_small", id="too small"),
            pytest.param(encoded(np.zeros((8, 4097), np.uint8)), 413, "image_too_large", id="too large"),
            pytest.param(bytes(MAX_BYTES + 1), 413, "body_too_large", id="too many bytes"),
        ],
    )
    def test_bad_image(self, client: httpx.Client, body: bytes, status: int, code: str) -> None:
        assert_error(client.post("/v1/score", content=body, headers={"content-type": "image/jpeg"}), status, code)

    def test_body_without_declared_length_is_limited(self, client: httpx.Client) -> None:
        def endless() -> Iterator[bytes]:
            for _ in range(MAX_BYTES // 2**20 + 8):
                yield bytes(2**20)

        try:
            response = client.post("/v1/score", content=endless())
        except httpx.WriteError:
            return  # the service hung up while we were still sending
        assert_error(response, 413, "body_too_large")

    @pytest.mark.parametrize(
        ("content_type", "status", "code"),
        [
            ("application/x-www-form-urlencoded", 415, "unsupported_media_type"),
            ("application/json", 415, "unsupported_media_type"),
            ("multipart/form-data", 422, "invalid_request"),
            ("multipart/form-data; boundary=x", 422, "invalid_request"),
            pytest.param(f"multipart/form-data; boundary={'x' * 10_000}", 422, "invalid_request", id="long boundary"),
        ],
    )
    def test_bad_content_type(self, client: httpx.Client, content_type: str, status: int, code: str) -> None:
        assert_error(client.post("/v1/score", content=OPEN, headers={"content-type": content_type}), status, code)

    def test_multipart_without_the_image(self, client: httpx.Client) -> None:
        response = client.post("/v1/score", files={"picture": OPEN})
        assert_error(response, 422, "invalid_request")
        assert "'image'" in response.json()["error"]["message"]

    def test_multipart_with_two_images(self, client: httpx.Client) -> None:
        response = client.post("/v1/score", files=[("image", OPEN), ("image", CLOSED)])
        assert_error(response, 422, "invalid_request")
        assert "/v1/score/batch" in response.json()["error"]["message"]

    def test_multipart_cut_off(self, client: httpx.Client) -> None:
        request = client.build_request("POST", "/v1/score", files={"image": OPEN})
        headers = {"content-type": request.headers["content-type"]}
        assert_error(client.post("/v1/score", content=request.read()[:-20], headers=headers), 422, "invalid_request")


class TestBatch:
    def test_answers_in_order_each_with_its_own_verdict(self, client: httpx.Client) -> None:
        images = [OPEN, b"nonsense", CLOSED, b"", OPEN[:100], OPEN]
        answer = client.post("/v1/score/batch", files=[("images", image) for image in images]).raise_for_status().json()
        got = [result.get("state") or result["error"]["code"] for result in answer["results"]]
        assert got == ["open", "unsupported_image", "closed", "empty_image", "corrupt_image", "open"]

    def test_many_images(self, client: httpx.Client) -> None:
        crops = [pixels for pixels, _ in labelled(20, seed=5)] * 5
        files = [("images", encoded(crop, "JPEG")) for crop in crops]
        results = client.post("/v1/score/batch", files=files).raise_for_status().json()["results"]
        assert [result["state"] for result in results] == [result["state"] for result in results[:20]] * 5
        assert {result["state"] for result in results} >= {"open", "closed"}

    def test_most_images(self, client: httpx.Client) -> None:
        response = client.post("/v1/score/batch", files=[("images", b"x")] * MAX_IMAGES)
        assert len(response.raise_for_status().json()["results"]) == MAX_IMAGES

    def test_too_many_images(self, client: httpx.Client) -> None:
        response = client.post("/v1/score/batch", files=[("images", b"x")] * (MAX_IMAGES + 1))
        assert_error(response, 413, "body_too_large")

    def test_too_many_bytes(self, client: httpx.Client) -> None:
        headers = {"content-type": "multipart/form-data; boundary=x", "content-length": str(MAX_BODY_BYTES + 1)}
        try:
            response = client.post("/v1/score/batch", content=bytes(MAX_BODY_BYTES + 1), headers=headers)
        except httpx.WriteError:
            return  # the service refused by the declared length and hung up
        assert_error(response, 413, "body_too_large")

    @pytest.mark.parametrize(
        ("content_type", "status", "code"),
        [
            ("image/jpeg", 415, "unsupported_media_type"),
            ("multipart/form-data; boundary=x", 422, "invalid_request"),
        ],
    )
    def test_not_multipart(self, client: httpx.Client, content_type: str, status: int, code: str) -> None:
        response = client.post("/v1/score/batch", content=OPEN, headers={"content-type": content_type})
        assert_error(response, status, code)

    def test_empty(self, client: httpx.Client) -> None:
        assert_error(
            client.post("/v1/score/batch", headers={"content-type": "multipart/form-data; boundary=x"}),
            400,
            "empty_body",
        )


FORM_HEAD = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
NPY = io.BytesIO()
np.save(NPY, np.random.default_rng(3).integers(0, 256, (4, 24, 24), dtype=np.uint8))
POSTED = {  # content type and body, by what is posted
    "/v1/score image": ("image/jpeg", OPEN),
    "/v1/score form": ("multipart/form-data; boundary=x", FORM_HEAD + OPEN + b"\r\n--x--\r\n"),
    "/v1/score/batch npy": ("application/x-npy", NPY.getvalue()),
    "/v1/faces photo": ("image/jpeg", (PROJECT / "docs" / "images" / "face.jpg").read_bytes()),
    "/v2/models/cascade/infer json": ("application/json", (PROJECT / "examples" / "infer.json").read_bytes()),
}


@pytest.mark.parametrize("what", POSTED)
class TestContentCodings:
    @pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
    def test_are_decoded_on_every_route(self, client: httpx.Client, what: str, coding: str, compress: Any) -> None:
        content_type, body = POSTED[what]
        path = what.partition(" ")[0]
        plain = client.post(path, content=body, headers={"content-type": content_type})
        headers = {"content-type": content_type, "content-encoding": coding}
        compressed = client.post(path, content=compress(body), headers=headers)
        assert (compressed.status_code, compressed.json()) == (200, plain.json())

    def test_others_are_refused_with_those_that_are_decoded(self, client: httpx.Client, what: str) -> None:
        content_type, body = POSTED[what]
        headers = {"content-type": content_type, "content-encoding": "br"}
        answer = client.post(what.partition(" ")[0], content=body, headers=headers)
        assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, deflate")
        assert "the content coding is 'br'" in answer.text


class TestCarelessClient:
    """Each of these speaks raw HTTP; the service must log no traceback and go on serving."""

    @staticmethod
    def send(service: str, request: bytes) -> socket.socket:
        host, _, port = service.removeprefix("http://").partition(":")
        connection = socket.create_connection((host, int(port)), timeout=10)
        connection.sendall(request)
        return connection

    def test_leaves_in_the_middle_of_its_body(self, service: str, client: httpx.Client) -> None:
        gone = sample("eyestate_requests_total", route="/v1/score", status="499")
        before = samples(client).get(gone, 0)
        self.send(service, b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + OPEN[:500]).close()
        deadline = time.monotonic() + 10
        while samples(client).get(gone, 0) == before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert samples(client)[gone] == before + 1

    @pytest.mark.parametrize("length", [b"-1", b"x", b"9" * 5000, b"1, 2"])
    def test_lies_about_its_length(self, service: str, client: httpx.Client, length: bytes) -> None:
        request = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n"
        with self.send(service, request) as connection:
            assert connection.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))
        assert client.post("/v1/score", content=OPEN).status_code == 200


class TestAnyRequest:
    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        route=st.sampled_from(["/v1/score", "/v1/score/batch"]),
        content_type=st.sampled_from(
            ["image/jpeg", "image/", "application/octet-stream", "multipart/form-data; boundary=x", "text/plain", "/"]
        ),
        head=st.sampled_from(
            [
                b"",
                OPEN[:300],
                b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n',
                b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + OPEN + b"\r\n--x",
            ]
        ),
        tail=st.binary(max_size=200),
    )
    def test_never_fails(self, client: httpx.Client, route: str, content_type: str, head: bytes, tail: bytes) -> None:
        response = client.post(route, content=head + tail, headers={"content-type": content_type})
        assert response.status_code in {200, 400, 413, 415, 422}
        if response.status_code != 200:
            assert set(response.json()["error"]) == {"code", "message"}

    def test_unknown_path(self, client: httpx.Client) -> None:
        assert_error(client.post("/v1/nothing"), 404, "not_found")

    @pytest.mark.parametrize("path", ["/v1/score", "/v1/score/batch"])
    def test_wrong_method(self, client: httpx.Client, path: str) -> None:
        response = client.get(path)
        assert_error(response, 405, "method_not_allowed")
        assert response.headers["allow"] == "POST"


class TestOperations:
    @pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz"])
    def test_probes(self, client: httpx.Client, path: str) -> None:
        assert client.get(path).status_code == 200

    def test_metrics_count_what_happened(self, client: httpx.Client) -> None:
        before = samples(client)
        client.post("/v1/score", content=OPEN)
        client.post("/v1/score", content=b"x")
        client.post("/v1/score/batch", files=[("images", OPEN), ("images", CLOSED), ("images", b"x")])
        client.get("/v1/nothing")
        after = samples(client)
        changes = {key: after[key] - before.get(key, 0) for key in after}
        assert changes[sample("eyestate_requests_total", route="/v1/score", status="200")] == 1
        assert changes[sample("eyestate_requests_total", route="/v1/score", status="415")] == 1
        assert changes[sample("eyestate_requests_total", route="/v1/score/batch", status="200")] == 1
        assert changes[sample("eyestate_requests_total", route="other", status="404")] == 1
        assert changes[sample("eyestate_crops_total", state="open")] == 2
        assert changes[sample("eyestate_crops_total", state="closed")] == 1
        assert changes[sample("eyestate_batch_size_crops_sum")] == 3
        assert changes[sample("eyestate_request_duration_seconds_count", route="/v1/score")] == 2
        manifest = eyestate.load().manifest
        models = [dict(labels) for name, labels in after if name == "eyestate_model_info"]
        assert [model.pop("device") for model in models] == [eyestate.load().device]
        assert models == [{"name": manifest.name, "version": manifest.version, "sha256": manifest.sha256}]

    @pytest.mark.parametrize("announced", [True, False], ids=["with its length", "in chunks"])
    def test_what_the_client_takes_to_send_is_not_the_latency(self, client: httpx.Client, announced: bool) -> None:
        def slowly() -> Iterator[bytes]:
            yield OPEN[:100]
            time.sleep(1)
            yield OPEN[100:]

        before = samples(client)
        headers = {"content-length": str(len(OPEN))} if announced else {}
        client.post("/v1/score", content=slowly(), headers=headers).raise_for_status()
        time.sleep(FRESH_SECONDS)
        after = samples(client)
        changes = {key: after[key] - before.get(key, 0) for key in after}
        assert changes[sample("eyestate_request_duration_seconds_sum", route="/v1/score")] < 0.25
        assert changes[sample("eyestate_request_duration_seconds_bucket", route="/v1/score", le="0.25")] == 1
        assert 0.9 < changes[sample("eyestate_phase_duration_seconds_sum", phase="receive")] < 1.5

    def test_a_client_that_leaves_while_it_sends_is_not_counted_as_slow(
        self, service: str, client: httpx.Client
    ) -> None:
        gone = sample("eyestate_requests_total", route="/v1/score", status="499")
        within = sample("eyestate_request_duration_seconds_bucket", route="/v1/score", le="0.25")
        before = samples(client)
        head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        with TestCarelessClient.send(service, head + OPEN[:500]):
            time.sleep(0.5)
        deadline = time.monotonic() + 10
        while samples(client).get(gone, 0) == before.get(gone, 0) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(FRESH_SECONDS)
        assert samples(client)[within] == before.get(within, 0) + 1

    def test_metrics_count_the_crops_that_the_cascade_defers(self, client: httpx.Client) -> None:
        closed, open_ = (Image.open(io.BytesIO(file)).convert("L").resize((32, 32)) for file in (CLOSED, OPEN))
        blends = [np.asarray(Image.blend(closed, open_, share)) for share in np.linspace(0, 1, 33)]
        cascade = eyestate.load()
        cascade.score(blends)
        assert 0 < cascade.deferred < len(blends)
        before = samples(client)
        files = [("images", encoded(blend)) for blend in blends]
        client.post("/v1/score/batch", files=files).raise_for_status()
        after = samples(client)
        for name in ("eyestate_crops_deferred_total", "eyestate_crops_escalated_total"):
            assert after[sample(name)] - before[sample(name)] == cascade.deferred

    def test_openapi_describes_what_is_served(self, client: httpx.Client) -> None:
        document = client.get("/openapi.json").raise_for_status().json()
        manifest = eyestate.load().manifest
        for template, methods in document["paths"].items():
            path = template.format(name=manifest.name, version=manifest.version)
            for method in methods:
                assert client.request(method, path).status_code not in {404, 405, 500}
        answer = client.post("/v1/score?quality=true", content=OPEN).json()
        assert set(answer) == set(document["components"]["schemas"]["ScoreResponse"]["properties"])

    def test_damaged_model_ends_the_start_with_one_clear_line(self, tmp_path: Path) -> None:
        bundle = tmp_path / "models" / "broken"
        bundle.mkdir(parents=True)
        (bundle / "model.onnx").write_bytes(b"damaged")
        (bundle / "manifest.json").write_text((load_bundle("final_best").path / "manifest.json").read_text())
        log = tmp_path / "log"
        with started_service(tmp_path / "home", log, EYESTATE_MODEL=str(bundle)) as (process, _):
            assert process.wait(60) != 0
        assert "is damaged" in log.read_text()
        assert "Traceback" not in log.read_text()


def sample(name: str, /, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def samples(client: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    time.sleep(FRESH_SECONDS)
    text = client.get("/metrics").raise_for_status().text
    return {
        sample(s.name, **s.labels): s.value for family in text_string_to_metric_families(text) for s in family.samples
    }
