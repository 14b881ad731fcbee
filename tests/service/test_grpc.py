"""The Open Inference Protocol over gRPC, as Triton's client and gRPC's own tools use it."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import InferenceServerClient, InferInput, service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

import eyestate
from eyestate.server.openinference.messages import SERVICE
from tests.service.conftest import PROJECT, started_service, wait_until_ready
from tools.harness.servers import free_port

FILES = [(PROJECT / "examples" / name).read_bytes() for name in ("open.jpg", "closed.jpg")]
MODEL = eyestate.load().manifest.name
GREY = np.random.default_rng(0).integers(0, 256, (5, 24, 24), np.uint8)
KEY = "correct-horse"
TRITON: Any = service_pb2


class Started(NamedTuple):
    process: subprocess.Popen[bytes]
    url: str
    grpc: str


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """A service of two workers with keys and gRPC, which has logged no traceback and stops cleanly."""
    folder = tmp_path_factory.mktemp("grpc")
    keys = folder / "keys"
    keys.write_text(KEY)
    log = folder / "log"
    port = free_port()
    environment = {"EYESTATE_GRPC_PORT": str(port), "EYESTATE_API_KEYS_FILE": str(keys), "EYESTATE_WORKERS": "2"}
    environment["EYESTATE_DEVICE"] = "cpu"  # by default each process chooses by timing which precision is quicker
    with started_service(folder / "home", log, **environment) as (process, url):
        wait_until_ready(process, url, log)
        yield Started(process, url, f"127.0.0.1:{port}")
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "Traceback" not in log.read_text()


@pytest.fixture
def triton(started: Started) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(started.grpc) as client:
        yield client


def tensor(name: str, values: np.ndarray[Any, Any]) -> InferInput:
    found = InferInput(name, list(values.shape), "UINT8" if values.dtype == np.uint8 else "BYTES")
    found.set_data_from_numpy(values)
    return found


CROPS = tensor("crops", GREY)
IMAGES = tensor("images", np.array(FILES, np.object_))
BROKEN = tensor("images", np.array([*FILES, FILES[0][:100]], np.object_))
HEADERS = {"authorization": f"Bearer {KEY}"}


def infer(triton: InferenceServerClient, *inputs: InferInput, **options: Any) -> Any:
    return triton.infer(MODEL, list(inputs), headers=HEADERS, client_timeout=60, **options)


def test_a_session(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready(MODEL, headers=HEADERS)
    assert triton.get_server_metadata(HEADERS).name == "eyestate"
    metadata = triton.get_model_metadata(MODEL, headers=HEADERS)
    assert [each.name for each in metadata.inputs] == ["crops", "images"]
    scorer = eyestate.load(device="cpu")
    answer = infer(triton, IMAGES, CROPS, model_version=metadata.versions[0], request_id="7")
    assert answer.get_response().id == "7"
    assert answer.as_numpy("state")[:2].tolist() == [b"open", b"closed"]
    expected = np.concatenate([scorer.score(FILES), scorer.score(GREY)])
    assert np.allclose(answer.as_numpy("score"), expected, atol=1e-5)


def test_tensors_in_contents_are_answered_in_contents(started: Started) -> None:
    asked = TRITON.ModelInferRequest(model_name=MODEL)
    asked.inputs.add(name="crops", datatype="UINT8", shape=GREY.shape).contents.uint_contents.extend(GREY.ravel())
    asked.inputs.add(name="images", datatype="BYTES", shape=[2]).contents.bytes_contents.extend(FILES)
    with grpc.insecure_channel(started.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = stub.ModelInfer(asked, metadata=[("x-api-key", KEY)], timeout=60)
    score, state = answer.outputs
    assert np.allclose(score.contents.fp32_contents[:5], eyestate.load(device="cpu").score(GREY), atol=1e-5)
    assert list(state.contents.bytes_contents)[5:] == [b"open", b"closed"]
    assert not answer.raw_output_contents


@pytest.mark.parametrize(
    ("inputs", "options", "code", "message"),
    [
        ([BROKEN], {}, "INVALID_ARGUMENT", "element 2 of 'images': the image is damaged"),
        ([CROPS, CROPS], {}, "INVALID_ARGUMENT", "'crops' is there twice"),
        ([tensor("crops", GREY[0])], {}, "INVALID_ARGUMENT", "inputs.0.crops.shape"),
        ([tensor("other", GREY)], {}, "INVALID_ARGUMENT", "other"),
        ([CROPS], {"model_version": "9"}, "NOT_FOUND", "there is no model"),
    ],
)
def test_an_error_says_what_is_wrong(
    triton: InferenceServerClient, inputs: list[InferInput], options: dict[str, Any], code: str, message: str
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        infer(triton, *inputs, **options)
    assert code in str(refused.value.status())
    assert message in refused.value.message()


def test_what_is_not_offered_is_unimplemented(triton: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        triton.get_model_config(MODEL, headers=HEADERS)


@pytest.mark.parametrize("headers", [None, {"authorization": "Bearer no"}, {"x-api-key": ""}])
def test_without_a_key_nothing_is_scored(triton: InferenceServerClient, headers: dict[str, str] | None) -> None:
    with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
        triton.infer(MODEL, [CROPS], headers=headers)


def test_a_stream_is_answered_in_order_and_an_error_is_its_own_requests(triton: InferenceServerClient) -> None:
    answers: Queue[tuple[Any, Any]] = Queue()
    triton.start_stream(lambda result, error: answers.put((result, error)), headers=HEADERS)
    for place in range(200):
        triton.async_stream_infer(MODEL, [BROKEN if place == 100 else IMAGES], request_id=str(place))
    for place in range(200):
        result, error = answers.get(timeout=60)
        if place == 100:
            assert "element 2 of 'images'" in error.message()
        else:
            assert result.get_response().id == str(place)
    triton.stop_stream()


@pytest.mark.parametrize("damaged", [b"\x0a\x02\xff\xfe", b"\xff" * 100])
def test_what_is_no_message_is_the_callers_mistake(started: Started, damaged: bytes) -> None:
    whole = TRITON.ModelInferRequest(model_name=MODEL, inputs=[CROPS._get_tensor()])
    whole.raw_input_contents.append(GREY.tobytes())
    with grpc.insecure_channel(started.grpc) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(f"/{SERVICE}/ModelInfer")(damaged, metadata=[("x-api-key", KEY)], timeout=30)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError):  # the log has no traceback of it
            channel.unary_unary("/grpc.health.v1.Health/Check")(damaged, timeout=30)
        stream = channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer", response_deserializer=TRITON.ModelStreamInferResponse.FromString
        )
        asked = [whole.SerializeToString(), damaged, whole.SerializeToString()]
        first, second, third = stream(iter(asked), metadata=[("x-api-key", KEY)], timeout=30)
    assert "this is no ModelInferRequest" in second.error_message
    assert first.infer_response == third.infer_response


def test_an_error_is_short_whatever_it_names(triton: InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="NOT_FOUND"):
        triton.infer("ü" * 100_000, [CROPS], headers=HEADERS)


def test_without_a_key_no_message_is_waited_for(started: Started) -> None:
    never: Queue[bytes] = Queue()
    with grpc.insecure_channel(started.grpc) as channel:
        call = channel.stream_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as refused:
            call(iter(never.get, b""), metadata=[("x-api-key", "no")], timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        never.put(b"")


def test_connections_leave_files_for_those_of_http(started: Started) -> None:
    host, port = started.grpc.split(":")
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(2 * 1_024 + 200)]
        time.sleep(1)
        kept = [connection for connection in many if not is_closed(connection)]
        assert len(kept) <= 2 * 1_024  # of two workers
        assert httpx.get(f"{started.url}/readyz").status_code == 200


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while data := connection.recv(2**16):
            del data
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def test_health_checks_and_reflection(started: Started) -> None:
    with grpc.insecure_channel(started.grpc) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            checked = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert checked.status == health_pb2.HealthCheckResponse.SERVING
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
        file = database.FindFileContainingSymbol(SERVICE)
        assert "ModelInferRequest" in {each.name for each in file.message_type}


def test_calls_are_counted_with_the_requests(started: Started, triton: InferenceServerClient) -> None:
    infer(triton, CROPS)
    lines = httpx.get(f"{started.url}/metrics").text.splitlines()
    counted = f'eyestate_requests_total{{route="{SERVICE}/ModelInfer",status="200"}}'
    assert [line for line in lines if line.startswith(counted) and not line.endswith(" 0.0")]


def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started_service(tmp_path / "home", tmp_path / "log", EYESTATE_GRPC_PORT=str(port)) as (process, _):
            assert process.wait(60) == 1
    assert (tmp_path / "log").read_text().splitlines()[-1] == (
        f"eyestate: cannot listen on 127.0.0.1:{port}: Address already in use"
    )


def test_at_the_end_health_says_so_and_what_is_in_flight_is_answered(started: Started) -> None:
    with grpc.insecure_channel(started.grpc) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        started.process.send_signal(signal.SIGTERM)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with InferenceServerClient(started.grpc) as triton:
            assert len(infer(triton, CROPS).as_numpy("score")) == 5
    assert started.process.wait(30) == 0
