from __future__ import annotations

import pytest

from eyestate import gpu_errors
from eyestate.gpu_errors import Kind, fault

CUDA_CALL = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<THRW, void, "
    "onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, const char*, const char*, SUCCTYPE, const char*, "
    "const char*, int) [with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError; "
    "std::conditional_t<THRW, void, common::Status> = void] "
)
WHERE = " ; GPU=-1 ; hostname=vm ; file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider.cc ; "
DURING_A_RUN = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "Name:'Conv_111' Status Message: "
)


def cuda(code: int, name: str) -> RuntimeError:
    """As ONNX Runtime 1.31.1 says it."""
    return RuntimeError(
        f"{CUDA_CALL}CUDA failure {code}: {name}{WHERE}line=355 ; expr=cudaSetDevice(info_.device_id); "
    )


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        (
            f"{DURING_A_RUN}/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::"
            "AllocateRawInternal(size_t, bool, onnxruntime::Stream*, bool, onnxruntime::WaitNotificationFn) Failed to "
            "allocate memory for requested buffer of size 939524096",
            Kind.MEMORY,
            "set EYESTATE_GPU_MEMORY",
        ),
        (
            f"{DURING_A_RUN}/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:340 Available memory of 1048576 "
            "is smaller than requested bytes of 9437184",
            Kind.MEMORY,
            "`nvidia-smi` lists it",
        ),
        (f"{DURING_A_RUN}{cuda(2, 'out of memory')}", Kind.MEMORY, "no memory left"),
        (
            f"{DURING_A_RUN}{CUDA_CALL}CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED{WHERE}line=168 ; "
            "expr=cublasCreate(&cublas_handle_); ",
            Kind.MEMORY,
            "no memory left",
        ),
        (f"{DURING_A_RUN}{cuda(719, 'unspecified launch failure')}", Kind.FAILED, "unspecified launch failure"),
        (f"{DURING_A_RUN}{cuda(214, 'uncorrectable ECC error encountered')}", Kind.FAILED, "dmesg | grep Xid"),
        (str(cuda(999, "unknown error")), Kind.FAILED, "this process cannot use it again"),
        (
            f"{DURING_A_RUN}{CUDA_CALL}CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED{WHERE}line=1 ; expr=x; ",
            Kind.FAILED,
            "`nvidia-smi`",
        ),
        (str(cuda(35, "CUDA driver version is insufficient for CUDA runtime version")), Kind.UNUSABLE, "update it"),
        (str(cuda(100, "no CUDA-capable device is detected")), Kind.UNUSABLE, "`--gpus all`"),
        (str(cuda(101, "invalid device ordinal")), Kind.UNUSABLE, "CUDA_VISIBLE_DEVICES"),
        (str(cuda(46, "all CUDA-capable devices are busy or unavailable")), Kind.UNUSABLE, "nvidia-smi -c DEFAULT"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_what_to_do(text: str, kind: Kind, says: str) -> None:
    found = fault(RuntimeError(text))
    assert found is not None
    assert found.kind is kind
    assert says in found.advice
    assert "\n" not in found.advice
    assert "onnxruntime_src" not in found.advice


def test_an_error_of_the_network_is_not_taken_for_one_of_the_gpu() -> None:
    assert fault(RuntimeError(f"{DURING_A_RUN}Invalid input shape: {{1,2}}")) is None


class TestNoDriver:
    def test_it_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu_errors, "_DRIVER", "libcuda_of_no_machine.so.1")
        assert gpu_errors.no_driver() == (
            "there is no NVIDIA driver; install it, or start the container with `--gpus all`"
        )

    def test_it_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu_errors, "_DRIVER", "libc.so.6")
        assert gpu_errors.no_driver() is None


class TestNotLoaded:
    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (
                "libcublasLt.so.13: cannot open shared object file: No such file or directory",
                "libcublasLt.so.13 is missing; install onnxruntime-gpu (requirements/serve-gpu.txt)",
            ),
            (None, "its libraries did not load; ONNX Runtime's message above says which"),
        ],
    )
    def test_a_missing_library(self, monkeypatch: pytest.MonkeyPatch, error: str | None, says: str) -> None:
        def load(name: str) -> None:
            if error and name.endswith("libonnxruntime_providers_cuda.so"):
                raise OSError(error)

        monkeypatch.setattr("ctypes.CDLL", load)
        assert gpu_errors.not_loaded("cuda") == says

    def test_tensorrt_without_its_libraries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def load(name: str) -> None:
            if "tensorrt" in name:
                raise OSError("libnvinfer.so.10: cannot open shared object file: No such file or directory")

        monkeypatch.setattr("ctypes.CDLL", load)
        found = fault(
            RuntimeError(
                "/onnxruntime_src/onnxruntime/python/onnxruntime_pybind_state.cc:729 void onnxruntime::python::"
                "RegisterTensorRTPluginsAsCustomOps(PySessionOptions&, const onnxruntime::ProviderOptions&) Please "
                "install TensorRT libraries as mentioned in the GPU requirements page, make sure they're in the PATH "
                "or LD_LIBRARY_PATH, and that your GPU is supported."
            )
        )
        assert found is not None
        assert found.kind is Kind.UNUSABLE
        assert "libnvinfer.so.10 is missing" in found.advice
