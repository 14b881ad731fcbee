"""What the errors of CUDA, as ONNX Runtime passes them on, mean and what to do about them."""

from __future__ import annotations

import ctypes
import re
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from eyestate.extras import extra

with extra("cpu"):
    import onnxruntime


class Kind(Enum):
    """Whether less at a time may work, nothing will until the process starts anew, or the GPU cannot be used at all."""

    MEMORY = "memory"
    FAILED = "failed"
    UNUSABLE = "unusable"


class Fault(NamedTuple):
    """What is wrong with a GPU, in one line that says what to do."""

    kind: Kind
    advice: str


_DRIVER: Final = "libcuda.so.1"
_CODE: Final = re.compile(r"CUDA failure (\d+): ([^;]*)")
_NO_MEMORY: Final = re.compile(
    r"Failed to allocate memory for requested buffer|Available memory of \d+ is smaller than requested"
    r"|CU\w+_STATUS_ALLOC_FAILED|CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY"
)
_GONE: Final = re.compile(r"GPU is lost|fallen off the bus|EXECUTION_FAILED|CUDA_ERROR_(LAUNCH|ECC|ILLEGAL)")

_NOT_LOADED: Final = re.compile("(TensorRT|CUDA)(?: libraries as mentioned| wasn't able to be loaded)")

_OUT_OF_MEMORY: Final = Fault(
    Kind.MEMORY,
    "the GPU has no memory left; end what else uses it (`nvidia-smi` lists it), or set EYESTATE_GPU_MEMORY to this "
    "service's share",
)
_FAILED: Final = "`nvidia-smi` and `dmesg | grep Xid` say why; this process cannot use it again"
_UNUSABLE: Final = {
    # https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html, cudaError
    3: "CUDA cannot be initialised; if the GPU was taken from the container, start it anew with `--gpus all`",
    35: "NVIDIA's driver is older than CUDA {cuda} needs; update it, `nvidia-smi` shows its version",
    46: "the GPU is in use and lets one process at a time (`nvidia-smi -c DEFAULT`), or MIG is on without an instance",
    100: "CUDA finds no GPU; check `nvidia-smi`, `--gpus all`, and that CUDA_VISIBLE_DEVICES names one",
    101: "CUDA_VISIBLE_DEVICES names a GPU that is not there; `nvidia-smi -L` lists them",
    209: "this GPU is too old for the kernels of ONNX Runtime; use EYESTATE_DEVICE=cpu",
    802: "the GPU is not ready; with NVSwitch start nvidia-fabricmanager",
    803: "NVIDIA's driver and its library libcuda have different versions; reboot, or restart the container",
    804: "NVIDIA's driver is older than CUDA {cuda} needs; update it, `nvidia-smi` shows its version",
}


def fault(error: Exception) -> Fault | None:
    """What an exception of ONNX Runtime says of the GPU; None where the GPU is not at fault."""
    text = str(error)
    if found := _CODE.search(text):
        return _by_code(int(found[1]), found[2].strip())
    if found := _NOT_LOADED.search(text):
        return Fault(Kind.UNUSABLE, not_loaded(found[1].lower()))
    if _NO_MEMORY.search(text):
        return _OUT_OF_MEMORY
    return Fault(Kind.FAILED, f"the GPU has failed; {_FAILED}") if _GONE.search(text) else None


def _by_code(code: int, name: str) -> Fault:
    if code == 2:
        return _OUT_OF_MEMORY
    if code in _UNUSABLE:
        cuda = getattr(onnxruntime, "cuda_version", "")
        return Fault(Kind.UNUSABLE, f"{_UNUSABLE[code].format(cuda=cuda)} ({name})")
    return Fault(Kind.FAILED, f"the GPU has failed ({name}); {_FAILED}")


def no_driver() -> str | None:
    """What to do where there is no driver of NVIDIA; None where there is one. ONNX Runtime would say so at length."""
    if _missing(_DRIVER) is None:
        return None
    return "there is no NVIDIA driver; install it, or start the container with `--gpus all`"


def not_loaded(provider: str) -> str:
    """Why ONNX Runtime, with a driver there, made a session without the provider, which has a library of its own.

    Args:
        provider: ``cuda`` or ``tensorrt``.
    """
    library = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    if missing := _missing(str(library)):
        return f"{missing} is missing; install {distribution(provider)}"
    return "its libraries did not load; ONNX Runtime's message above says which"


def _missing(library: str) -> str | None:
    """The file that keeps a library from being loaded."""
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return Path(str(error).partition(":")[0]).name
    return None


def distribution(provider: str) -> str:
    """What to install to have the provider."""
    return {
        "openvino": "onnxruntime-openvino (requirements/serve.txt)",
        "tensorrt": "onnxruntime-gpu (requirements/serve-gpu.txt) and tensorrt",
    }.get(provider, "onnxruntime-gpu (requirements/serve-gpu.txt)")
