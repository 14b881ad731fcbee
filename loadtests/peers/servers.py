"""The servers under test: how each is installed, started and queried."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from eyestate.media_types import JSON
from loadtests.peers.model import MAX_BATCH, MAX_WAIT_MS
from tools.harness.servers import SCRATCH, Probe, free_port

OURS: Final = "eyestate"
BARE: Final = "bare uvicorn"
QUICKSTART: Final = "BentoML quickstart"
_BOUNDARY: Final = "loadtests"
_BATCHES: Final = f"batches of at most {MAX_BATCH}, waiting at most {MAX_WAIT_MS} ms"


@dataclass(frozen=True, slots=True)
class Peer:
    """One server.

    Attributes:
        name: as in the tables.
        what: its configuration, for the report.
        venv: its environment.
        package: the package in that environment that it is built on.
        command: may contain ``{port}``, ``{workers}`` and ``{bin}``, the folder of the environment's programs.
        path: of the scoring route.
        request: makes body and content type for one image.
        environment: additional variables, with the same placeholders.
        front: processes that every request passes through before it comes to a worker.
    """

    name: str
    what: str
    venv: str
    package: str
    command: tuple[str, ...]
    path: str
    request: Callable[[bytes], tuple[bytes, str]]
    environment: dict[str, str] = field(default_factory=dict)
    front: int = 0

    def workers(self, processes: int) -> int:
        """How many of so many processes may be workers; one is, even if the server then has more processes."""
        return max(1, processes - self.front)

    def probe(self, image: bytes) -> Probe:
        """Ready means able to score this image."""
        body, content_type = self.request(image)
        return Probe(self.path, body, content_type)


def _raw(image: bytes) -> tuple[bytes, str]:
    return image, "image/jpeg"


def _multipart(image: bytes) -> tuple[bytes, str]:
    head = 'Content-Disposition: form-data; name="images"; filename="eye.jpg"\r\nContent-Type: image/jpeg'
    body = f"--{_BOUNDARY}\r\n{head}\r\n\r\n".encode() + image + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return body, f"multipart/form-data; boundary={_BOUNDARY}"


def _json(image: bytes) -> tuple[bytes, str]:
    return json.dumps({"image": base64.b64encode(image).decode()}).encode(), JSON


def _inference_protocol(image: bytes) -> tuple[bytes, str]:
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1, 1],
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode()],
    }
    return json.dumps({"inputs": [tensor]}).encode(), JSON


PEERS: Final = (
    Peer(
        OURS,
        "`bentoml serve service`",
        "peers",
        "bentoml",
        ("{bin}/python", "-m", "bentoml", "serve", "service", "--host", "127.0.0.1", "--port", "{port}"),
        "/v1/score",
        _raw,
    ),
    Peer(
        BARE,
        "Starlette route that decodes and scores inline, one crop at a time, on one ONNX Runtime thread (a single crop "
        "gains nothing from two); uvicorn with httptools and uvloop",
        "peers",
        "uvicorn",
        (
            *("{bin}/python", "-m", "uvicorn", "loadtests.peers.bare_uvicorn:app", "--host", "127.0.0.1"),
            *("--port", "{port}", "--workers", "{workers}", "--http", "httptools", "--loop", "uvloop"),
            "--no-access-log",
        ),
        "/v1/score",
        _raw,
        {"PEER_THREADS": "1"},
    ),
    Peer(
        QUICKSTART,
        "`@bentoml.api(batchable=True)` on `list[PIL.Image]`, batcher defaults; multipart",
        "peers",
        "bentoml",
        (
            *("{bin}/python", "-m", "bentoml", "serve", "loadtests.peers.bentoml_quickstart:Quickstart"),
            *("--host", "127.0.0.1", "--port", "{port}"),
        ),
        "/score",
        _multipart,
    ),
    Peer(
        "LitServe",
        f"{_BATCHES}; one HTTP process per worker; base64 in JSON",
        "peers",
        "litserve",
        ("{bin}/python", "-m", "loadtests.peers.litserve_app", "{port}"),
        "/predict",
        _json,
        front=1,
    ),
    Peer(
        "Mosec",
        f"{_BATCHES}; its HTTP server is Rust",
        "peers",
        "mosec",
        (
            *("{bin}/python", "-m", "loadtests.peers.mosec_app", "--address", "127.0.0.1", "--port", "{port}"),
            *("--log-level", "warning"),
        ),
        "/inference",
        _raw,
        front=1,
    ),
    Peer(
        "MLServer",
        f"{_BATCHES}; Open Inference Protocol, base64 in JSON",
        "mlserver",
        "mlserver",
        ("{bin}/mlserver", "start", str(Path(__file__).parent)),
        "/v2/models/eyestate/infer",
        _inference_protocol,
        {
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": "{port}",
            "MLSERVER_GRPC_PORT": str(free_port()),
            "MLSERVER_METRICS_PORT": str(free_port()),
            "MLSERVER_METRICS_DIR": str(SCRATCH / "mlserver-metrics"),
            "MLSERVER_PARALLEL_WORKERS": "{workers}",
            "MLSERVER_DEBUG": "false",
            "MLSERVER_MODEL_NAME": "eyestate",
            "MLSERVER_MODEL_IMPLEMENTATION": "loadtests.peers.mlserver_app.EyeState",
            "MLSERVER_MODEL_MAX_BATCH_SIZE": str(MAX_BATCH),
            "MLSERVER_MODEL_MAX_BATCH_TIME": str(MAX_WAIT_MS / 1000),
        },
        front=1,
    ),
)
