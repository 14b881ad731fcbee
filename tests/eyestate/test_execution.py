from __future__ import annotations

import logging
import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import eyestate
from eyestate import execution, gpu_errors, providers
from eyestate.settings import Device
from tests.bundles import SIDE, write_bundle

CPU = "CPUExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path)


def test_the_cpu_computes_in_float32(bundle: Path) -> None:
    session, device = execution.open_session(bundle / "model.onnx", "cpu", threads=1)
    assert session.get_providers() == [CPU]
    assert device == "cpu-fp32"


@pytest.mark.skipif(OPENVINO not in onnxruntime.get_available_providers(), reason="no OpenVINO in this ONNX Runtime")
def test_openvino_gives_the_cpus_scores_within_its_precision(bundle: Path) -> None:
    crops = np.random.default_rng(3).integers(0, 256, (70, SIDE, SIDE), dtype=np.uint8)
    openvino, cpu = (eyestate.load(bundle, device) for device in ("openvino", "cpu"))
    assert openvino.device.startswith("openvino-")
    np.testing.assert_allclose(openvino.score(crops), cpu.score(crops), atol=2**-8)


@pytest.mark.parametrize(("bfloat16", "first"), [(True, OPENVINO), (False, CPU)])
def test_auto_is_openvino_only_where_the_processor_has_bfloat16(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, bfloat16: bool, first: str
) -> None:
    monkeypatch.setattr(execution, "has_bfloat16", lambda: bfloat16)
    with caplog.at_level(logging.WARNING):
        session, _ = execution.open_session(bundle / "model.onnx", "auto")
    assert session.get_providers()[0] == first
    assert not caplog.records, "what nobody asked for is not missed"


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has CUDA")
def test_a_gpu_that_is_not_there_is_replaced_with_a_warning_that_says_why(
    bundle: Path, caplog: pytest.LogCaptureFixture, device: Device
) -> None:
    with caplog.at_level(logging.WARNING):
        _, used = execution.open_session(bundle / "model.onnx", device)
    assert used == "cpu-fp32"
    assert f"EYESTATE_DEVICE={device} cannot be used" in caplog.text
    assert "requirements/serve-gpu.txt" in caplog.text


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_gpu_without_a_driver_is_replaced_before_onnx_runtime_says_so_at_length(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, device: Device
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*execution._PROVIDERS.values()])
    monkeypatch.setattr(gpu_errors, "_DRIVER", "libcuda_of_no_machine.so.1")
    with caplog.at_level(logging.WARNING):
        _, used = execution.open_session(bundle / "model.onnx", device)
    assert used == "cpu-fp32"
    assert f"EYESTATE_DEVICE={device} cannot be used: there is no NVIDIA driver; install it" in caplog.text


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_gpu_whose_libraries_do_not_load_is_replaced_with_a_warning_that_says_why(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, device: Device
) -> None:
    """ONNX Runtime then makes a session without the provider; here because this build has none."""
    onnx = bundle / "model.onnx"
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*execution._PROVIDERS.values()])
    monkeypatch.setattr(gpu_errors, "no_driver", lambda: None)
    asked: list[object] = []
    make_session = onnxruntime.InferenceSession

    def session(path: Path, options: object = None, **providers: object) -> object:
        asked.append(providers.get("provider_options"))
        return make_session(path, options, providers=[CPU])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with caplog.at_level(logging.WARNING):
        _, used = execution.open_session(onnx, device)
    assert used == "cpu-fp32"
    assert f"libonnxruntime_providers_{device}.so is missing; install onnxruntime-gpu" in caplog.text
    first = next(each[0] for each in asked if isinstance(each, list))
    assert first == (
        providers.cuda(1) if device == "cuda" else providers.tensorrt(onnx, sha256(onnx.read_bytes()).hexdigest(), 1)
    )


@pytest.mark.filterwarnings("ignore:Specified provider .CUDA")
def test_libraries_that_do_not_load_are_named_in_the_log_and_not_on_the_terminal(
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """ONNX Runtime's own loading, which here has no GPU's libraries to load and prints so."""
    monkeypatch.setattr(onnxruntime, "cuda_version", "12.9")
    monkeypatch.setattr(gpu_errors, "no_driver", lambda: None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    with caplog.at_level(logging.INFO):
        execution.open_session(bundle / "model.onnx", "auto")
    assert "Failed to load libcublas" in caplog.text
    assert "WARNING" not in caplog.text, "what nobody asked for is not missed"
    assert capsys.readouterr().out == ""


def test_the_cores_are_those_of_the_control_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for quota, cores in [("max 100000", 8), ("250000 100000", 3), ("50000 100000", 1), ("1600000 100000", 8)]:
        monkeypatch.setattr(Path, "read_text", lambda _, quota=quota: quota)
        assert execution.cores() == cores
