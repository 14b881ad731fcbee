"""The Open Inference Protocol over HTTP, as clients of Triton and KServe use it, and as nobody should."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

import eyestate
from tests.service.conftest import PROJECT

EXAMPLES = [PROJECT / "examples" / name for name in ("open.jpg", "closed.jpg")]
FILES = [path.read_bytes() for path in EXAMPLES]
MODEL = eyestate.load().manifest.name
INFER = f"/v2/models/{MODEL}/infer"
GREY = np.random.default_rng(0).integers(0, 256, (5, 24, 24), np.uint8)


def triton_input(name: str, values: np.ndarray[Any, Any]) -> InferInput:
    tensor = InferInput(name, list(values.shape), "UINT8" if name == "crops" else "BYTES")
    return tensor.set_data_from_numpy(values)


class TestTritonclient:
    def test_a_session(self, service: str) -> None:
        with InferenceServerClient(service.removeprefix("http://")) as client:
            assert client.is_server_live()
            assert client.is_server_ready()
            assert client.is_model_ready(MODEL)
            assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_repository"]
            (version,) = client.get_model_metadata(MODEL)["versions"]
            images = client.infer(MODEL, [triton_input("images", np.array(FILES, np.object_))], version)
            assert images.as_numpy("state").tolist() == [b"open", b"closed"]
            scorer = eyestate.load()
            assert np.allclose(images.as_numpy("score"), scorer.score(FILES), atol=1e-5)
            crops = client.infer(MODEL, [triton_input("crops", GREY)], request_compression_algorithm="gzip")
            assert np.allclose(crops.as_numpy("score"), scorer.score(GREY), atol=1e-5)

    def test_an_error(self, service: str) -> None:
        with InferenceServerClient(service.removeprefix("http://")) as client:
            broken = np.array([*FILES, FILES[0][:100]], np.object_)
            with pytest.raises(
                InferenceServerException, match="element 2 of 'images': the image is damaged"
            ) as refused:
                client.infer(MODEL, [triton_input("images", broken)])
            assert refused.value.status() == "422"


def test_kserves_client(service: str) -> None:
    python = os.environ.get("EYESTATE_KSERVE_PYTHON")
    if not python:
        pytest.skip("set EYESTATE_KSERVE_PYTHON to the Python of an environment with kserve")
    script = Path(__file__).with_name("kserve_client.py")
    done = subprocess.run(
        [python, script, service, MODEL, *EXAMPLES], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert [answers.pop(name) for name in ("live", "ready", "model ready", "other model ready")] == [True] * 3 + [False]
    assert "element 0 of 'images': not an image" in answers.pop("error")
    assert len(answers) == 8
    scorer = eyestate.load()
    for name, answer in answers.items():
        crops: Any = GREY if name.startswith("crops") else FILES
        expected = scorer.score(crops)
        assert (answer["id"], answer["model"]) == (name.split()[0], MODEL)
        assert np.allclose(answer["score"], expected, atol=1e-5)
        assert answer["state"] == [scorer.state(score) for score in expected.tolist()]


def request_body(inputs: list[InferInput]) -> bytes:
    body: bytes
    body, _ = InferenceServerClient.generate_request_body(inputs)
    return body


class TestAnyRequest:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        body=st.sampled_from(
            [
                request_body([triton_input("crops", GREY)]),
                request_body([triton_input("images", np.array(FILES, np.object_))]),
                json.dumps(
                    {"inputs": [{"name": "crops", "datatype": "UINT8", "shape": [1, 8, 8], "data": [7] * 64}]}
                ).encode(),
            ]
        ),
        place=st.floats(0, 1),
        piece=st.binary(max_size=20),
        keep=st.floats(0, 1),
        headers=st.dictionaries(
            st.sampled_from(["Inference-Header-Content-Length", "Content-Encoding", "Content-Type", "Accept"]),
            st.sampled_from(["0", "100", "111", "-1", "9" * 30, "gzip", "deflate", "x", "application/json"]),
            max_size=2,
        ),
    )
    def test_never_fails(
        self, client: httpx.Client, *, body: bytes, place: float, piece: bytes, keep: float, headers: dict[str, str]
    ) -> None:
        at = int(place * len(body))
        content = (body[:at] + piece + body[at + len(piece) :])[: round(keep * 2 * len(body))]
        response = client.post(INFER, content=content, headers=headers)
        assert response.status_code == 200 or 400 <= response.status_code < 500
        if response.status_code != 200:
            assert list(response.json()) == ["error"]

    @settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]),
        path=st.lists(st.sampled_from(["models", MODEL, "versions", "1.0.0", "infer", "ready", "health", "%00", "é"])),
    )
    def test_any_path_is_answered_in_the_protocols_form(
        self, client: httpx.Client, method: str, path: list[str]
    ) -> None:
        response = client.request(method, "/".join(["/v2", *path]))
        assert response.status_code in {200, 400, 404, 405}
        if response.status_code != 200:
            assert list(response.json()) == ["error"]
