"""The Open Inference Protocol's routes behind a real HTTP server in this process, as tritonclient meets them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

import eyestate
from eyestate.arrays import Pixels
from eyestate.bundle import load_model
from eyestate.errors import OverloadedError
from eyestate.server import app as server_app
from eyestate.server import openapi
from eyestate.server.openinference import routes
from eyestate.server.packed import MAX_CROPS
from eyestate.settings import Settings
from tests.bundles import write_bundle

MODEL, VERSION = "brightness", "1.2.3"
INFER = f"/v2/models/{MODEL}/infer"
RANDOM = np.random.default_rng(5)
GREY = RANDOM.integers(0, 256, (7, 24, 32), dtype=np.uint8)
RGB = RANDOM.integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FILES = [png(pixels) for pixels in (*GREY, *RGB, GREY[0, :12, :9])]
FEW_CROPS = {"name": "crops", "datatype": "UINT8", "shape": [1, 8, 8], "data": [200] * 64}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("models"), MODEL)


@pytest.fixture(scope="module")
def app(bundle: Path) -> Iterator[Starlette]:
    """The application, served at ``app.state.address`` as long as it is in use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EYESTATE_MODEL", str(bundle))
        patch.setattr(server_app, "graceful_shutdown", lambda *_: nullcontext())  # signals are for the main thread
        app = server_app.create_app(Settings(), load_model())
        server = uvicorn.Server(
            uvicorn.Config(server_app.wrap(app, app, Settings()), port=0, log_level="warning", log_config=None)
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.started
        app.state.address = "{}:{}".format(*server.servers[0].sockets[0].getsockname())
        yield app
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def triton(app: Starlette) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(app.state.address, connection_timeout=30, network_timeout=30) as client:
        yield client


@pytest.fixture
def http(app: Starlette) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{app.state.address}", timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def scorer(bundle: Path) -> eyestate.Scorer:
    return eyestate.load(bundle)


def crops_input(crops: Pixels, binary: bool = True) -> InferInput:
    return InferInput("crops", list(crops.shape), "UINT8").set_data_from_numpy(crops, binary)


def images_input(files: list[bytes], binary: bool = True) -> InferInput:
    elements = np.array(files if binary else [base64.b64encode(file) for file in files], np.object_)
    return InferInput("images", [len(files)], "BYTES").set_data_from_numpy(elements, binary)


def states(result: InferResult) -> list[str]:
    return [state if isinstance(state, str) else state.decode() for state in result.as_numpy("state")]


class TestServer:
    def test_health(self, triton: InferenceServerClient, http: httpx.Client) -> None:
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert http.get("/v2/health/live").json() == {"live": True}
        assert http.get("/v2/health/ready").json() == {"ready": True}

    @pytest.mark.parametrize("version", ["", VERSION])
    def test_model_is_ready(self, triton: InferenceServerClient, http: httpx.Client, version: str) -> None:
        assert triton.is_model_ready(MODEL, version)
        path = f"/v2/models/{MODEL}" + (version and f"/versions/{version}")
        assert http.get(f"{path}/ready").json() == {"name": MODEL, "ready": True}

    def test_other_models_are_not_ready(self, triton: InferenceServerClient) -> None:
        assert not triton.is_model_ready("other")
        assert not triton.is_model_ready(MODEL, "2")

    def test_metadata(self, triton: InferenceServerClient, http: httpx.Client) -> None:
        metadata = {
            "name": "eyestate",
            "version": eyestate.__version__,
            "extensions": ["binary_tensor_data", "model_repository"],
        }
        assert triton.get_server_metadata() == metadata
        assert http.get("/v2/").json() == metadata

    @pytest.mark.parametrize("version", ["", VERSION])
    def test_model_metadata(self, triton: InferenceServerClient, version: str) -> None:
        assert triton.get_model_metadata(MODEL, version) == {
            "name": MODEL,
            "versions": [VERSION],
            "platform": "onnxruntime_onnx",
            "inputs": [
                {"name": "crops", "datatype": "UINT8", "shape": [-1, -1, -1]},
                {"name": "images", "datatype": "BYTES", "shape": [-1]},
            ],
            "outputs": [
                {"name": "score", "datatype": "FP32", "shape": [-1]},
                {"name": "state", "datatype": "BYTES", "shape": [-1]},
            ],
        }


def test_openapi_has_the_routes_and_no_other() -> None:
    paths = json.loads(openapi.document())["paths"]
    described = {(path, method.upper()) for path, item in paths.items() for method in item if path.startswith("/v2")}
    served = {(route.path, method) for route in routes.API.routes for method in route.methods or ()}
    assert {(path, method) for path, method in served if method != "HEAD" and path != "/v2/"} == described


class TestInfer:
    @pytest.mark.parametrize("binary_in", [False, True])
    @pytest.mark.parametrize("binary_out", [None, False, True])
    @pytest.mark.parametrize("what", ["grey", "rgb", "images"])
    def test_scores_are_those_of_python(
        self,
        triton: InferenceServerClient,
        scorer: eyestate.Scorer,
        what: str,
        binary_in: bool,
        binary_out: bool | None,
    ) -> None:
        crops: Any = {"grey": GREY, "rgb": RGB, "images": FILES}[what]
        tensor = (images_input if what == "images" else crops_input)(crops, binary_in)
        outputs = None if binary_out is None else [InferRequestedOutput(n, binary_out) for n in ("state", "score")]
        result = triton.infer(MODEL, [tensor], outputs=outputs, request_id="r-1")
        expected = scorer.score(crops)
        assert result.as_numpy("score").dtype == np.float32
        assert result.as_numpy("score").tolist() == expected.tolist()
        assert states(result) == [scorer.state(score) for score in expected.tolist()]
        answer = result.get_response()
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("r-1", MODEL, VERSION)
        assert [output["name"] for output in answer["outputs"]] == (
            ["state", "score"] if outputs else ["score", "state"]
        )

    @pytest.mark.parametrize("binary", [(True, True), (True, False), (False, True), (False, False)])
    def test_two_inputs_and_two_kinds_of_output(
        self, triton: InferenceServerClient, scorer: eyestate.Scorer, binary: tuple[bool, bool]
    ) -> None:
        outputs = [InferRequestedOutput("score", binary[1]), InferRequestedOutput("state", binary[0])]
        inputs = [images_input(FILES, binary[0]), crops_input(RGB, binary[1])]
        result = triton.infer(MODEL, inputs, VERSION, outputs=outputs)
        expected = [*scorer.score(FILES).tolist(), *scorer.score(RGB).tolist()]
        assert result.as_numpy("score").tolist() == expected
        assert states(result) == [scorer.state(score) for score in expected]

    def test_one_output(self, triton: InferenceServerClient) -> None:
        result = triton.infer(MODEL, [crops_input(GREY)], outputs=[InferRequestedOutput("state")])
        assert [output["name"] for output in result.get_response()["outputs"]] == ["state"]
        assert len(states(result)) == len(GREY)

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    @pytest.mark.parametrize("binary", [False, True])
    def test_compressed(
        self, triton: InferenceServerClient, scorer: eyestate.Scorer, encoding: str, binary: bool
    ) -> None:
        result = triton.infer(
            MODEL,
            [crops_input(GREY, binary)],
            request_compression_algorithm=encoding,
            response_compression_algorithm=encoding,
        )
        assert result.as_numpy("score").tolist() == scorer.score(GREY).tolist()

    def test_most_crops(self, triton: InferenceServerClient) -> None:
        crops = RANDOM.integers(0, 256, (MAX_CROPS, 16, 16), dtype=np.uint8)
        result = triton.infer(MODEL, [crops_input(crops)])
        assert np.allclose(result.as_numpy("score"), crops.mean((1, 2)) / 255, atol=1e-5)

    def test_parameters_that_mean_nothing_here_are_passed_over(self, triton: InferenceServerClient) -> None:
        result = triton.infer(
            MODEL,
            [crops_input(GREY)],
            outputs=[InferRequestedOutput("score", class_count=1)],
            sequence_id=4,
            priority=2,
            timeout=1_000_000,
            parameters={"anything": "goes"},
        )
        assert result.as_numpy("score").shape == (7,)

    def test_json_answer_has_the_protocols_fields_and_no_other(self, http: httpx.Client) -> None:
        response = http.post(INFER, json={"inputs": [FEW_CROPS]})
        assert response.headers["content-type"] == "application/json"
        assert response.json() == {
            "model_name": MODEL,
            "model_version": VERSION,
            "outputs": [
                {"name": "score", "datatype": "FP32", "shape": [1], "data": [pytest.approx(200 / 255)]},
                {"name": "state", "datatype": "BYTES", "shape": [1], "data": ["open"]},
            ],
        }

    def test_binary_answer_has_its_lengths(self, http: httpx.Client) -> None:
        response = http.post(INFER, json={"inputs": [FEW_CROPS], "parameters": {"binary_data_output": True}})
        assert response.headers["content-type"] == "application/octet-stream"
        split = int(response.headers["inference-header-content-length"])
        assert [
            output["parameters"]["binary_data_size"]
            for output in httpx.Response(200, content=response.content[:split]).json()["outputs"]
        ] == [4, 8]
        assert response.content[split + 4 :] == b"\x04\x00\x00\x00open"


class TestRefused:
    @pytest.mark.parametrize(
        ("file", "status", "reason"),
        [
            (b"", "400", "empty"),
            (b"nonsense", "415", "not an image"),
            (FILES[0][:60], "422", "damaged"),
            (png(GREY[0, :5]), "422", "5 pixels"),
        ],
        ids=["empty", "nonsense", "cut", "small"],
    )
    def test_image_is_named_by_its_index(
        self, triton: InferenceServerClient, file: bytes, status: str, reason: str
    ) -> None:
        with pytest.raises(InferenceServerException, match=f"element 2 of 'images'.*{reason}") as refused:
            triton.infer(MODEL, [images_input([FILES[0], FILES[1], file, file])])
        assert refused.value.status() == status

    @pytest.mark.parametrize(
        ("tensor", "status", "reason"),
        [
            (crops_input(GREY[:, :4]), "422", "at least 8"),
            (crops_input(np.zeros((MAX_CROPS + 1, 8, 8), np.uint8)), "413", "16,384"),
            (
                InferInput("crops", [1, 8, 8], "FP32").set_data_from_numpy(np.zeros((1, 8, 8), np.float32)),
                "400",
                "UINT8",
            ),
            (
                InferInput("pixels", [1, 8, 8], "UINT8").set_data_from_numpy(np.zeros((1, 8, 8), np.uint8)),
                "400",
                "crops",
            ),
            (InferInput("crops", [1, 8, 8], "UINT8").set_shared_memory("region", 64), "400", "either data"),
        ],
        ids=["small", "many", "floats", "unknown", "shared memory"],
    )
    def test_tensor(self, triton: InferenceServerClient, tensor: InferInput, status: str, reason: str) -> None:
        with pytest.raises(InferenceServerException, match=reason) as refused:
            triton.infer(MODEL, [tensor])
        assert refused.value.status() == status

    @pytest.mark.parametrize(("model", "version"), [("other", ""), (MODEL, "1")])
    def test_unknown_model(self, triton: InferenceServerClient, model: str, version: str) -> None:
        with pytest.raises(InferenceServerException, match="the model served is 'brightness'") as refused:
            triton.infer(model, [crops_input(GREY)], version)
        assert refused.value.status() == "404"
        with pytest.raises(InferenceServerException, match="'brightness'"):
            triton.get_model_metadata(model, version)

    def test_what_triton_has_and_this_service_has_not(self, triton: InferenceServerClient) -> None:
        with pytest.raises(InferenceServerException, match="there is no /v2/models/brightness/config"):
            triton.get_model_config(MODEL)

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", INFER, 405),
            ("POST", "/v2", 405),
            ("TRACE", "/v2/health/live", 405),
            ("PROPFIND", "/v2/nothing", 404),
            ("DELETE", f"/v2/models/{MODEL}", 405),
            ("GET", "/v2/models", 404),
            ("POST", "/v2/nothing", 404),
        ],
    )
    def test_path_or_method(self, http: httpx.Client, method: str, path: str, status: int) -> None:
        response = http.request(method, path)
        assert response.status_code == status
        assert response.json().keys() == {"error"}
        assert ("allow" in response.headers) == (status == 405)

    @pytest.mark.parametrize(
        ("content", "headers", "status"),
        [
            (b"", {}, 400),
            (b"{", {}, 400),
            (b"{}", {"Inference-Header-Content-Length": "3"}, 400),
            (b"x", {"Content-Encoding": "gzip"}, 400),
            (b"x", {"Content-Encoding": "br"}, 415),
        ],
    )
    def test_body(self, http: httpx.Client, content: bytes, headers: dict[str, str], status: int) -> None:
        response = http.post(INFER, content=content, headers=headers)
        assert response.status_code == status
        assert list(response.json()) == ["error"]
        assert response.json()["error"]

    def test_overload(self, app: Starlette, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        async def full(crops: Pixels) -> None:
            raise OverloadedError("the queue is full", 7)

        monkeypatch.setattr(app.state.runtime.batcher, "submit", full)
        response = http.post(INFER, json={"inputs": [FEW_CROPS]})
        assert (response.status_code, response.headers["retry-after"]) == (429, "7")
        assert response.json() == {"error": "the queue is full"}

    def test_deadline(self, app: Starlette, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
        async def slow(crops: Pixels) -> None:
            await asyncio.sleep(10)

        monkeypatch.setattr(app.state.runtime.batcher, "submit", slow)
        monkeypatch.setattr(app.state.edge, "_timeout", 0.1)
        response = http.post(INFER, json={"inputs": [FEW_CROPS]})
        assert response.status_code == 504
        assert list(response.json()) == ["error"]


class TestDraining:
    def test_ready_says_so_before_requests_are_refused(
        self, app: Starlette, triton: InferenceServerClient, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(app.state.edge, "draining", True)
        assert triton.is_server_live()
        assert not triton.is_server_ready()
        assert not triton.is_model_ready(MODEL)
        assert http.get("/v2/health/ready").json() == {"ready": False}
        assert http.post(INFER, json={"inputs": [FEW_CROPS]}).status_code == 200
        monkeypatch.setattr(app.state.edge, "rejecting", True)
        assert triton.is_server_live()
        response = http.post(INFER, json={"inputs": [FEW_CROPS]})
        assert response.status_code == 503
        assert list(response.json()) == ["error"]
        assert int(response.headers["retry-after"]) >= 1
