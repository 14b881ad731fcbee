"""Execution of a network: an ONNX Runtime session on the requested device, or on the best one available."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

from eyestate import gpu_errors, providers
from eyestate.extras import extra
from eyestate.settings import Device

with extra("cpu"):
    import onnxruntime

log = logging.getLogger("eyestate.execution")

_ERRORS: Final = 3  # the least severe messages of ONNX Runtime that are shown

_PROVIDERS: Final[dict[str, str]] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}


class Form(NamedTuple):
    """How a network runs with CUDA.

    Attributes:
        half: whether its convolutions compute in float16; its content is then that of ``gpu_graph.halved``.
        graph: whether an inference is one CUDA graph, so that its hundreds of kernels are launched together.
    """

    half: bool = False
    graph: bool = False


PLAIN: Final = Form()
FORMS: Final = (Form(half=True, graph=True), Form(half=True), PLAIN)  # the quickest first


class BatchSizes(NamedTuple):
    """The batch sizes that suit a device.

    Attributes:
        sizes: in crops, ascending, the first is 1. They grow by steps, so that the largest one chosen at start is the
            same on a busy machine.
        overhead: the fixed cost of an inference, in crops that could be computed in its time.
        fixed: whether each size needs a session of its own.
        between: further sizes, below the largest one chosen, where a session takes any: less is padded.
    """

    sizes: tuple[int, ...]
    overhead: float
    fixed: bool = False
    between: tuple[int, ...] = ()


# Measured on one core of an AMD EPYC (Zen 4). The overhead is half a crop, in final_best and in final_best_lite, and as
# much again in the small network for the Python code around an inference. With OpenVINO an inference in a session that
# had another size before takes 4.4 ms longer in final_best, as long as three crops, and 0.13 ms in final_best_lite, as
# long as six. With CUDA it takes seconds, since cuDNN chooses its algorithms anew, and TensorRT builds another engine.
# On an H200 final_best took 4.6 ms for 1 crop, 6.6 for 256 and 19.8 for 1,024.
_BATCH_SIZES: Final = {
    "tensorrt": BatchSizes(providers.SIZES, 250, fixed=True),
    "cuda": BatchSizes(providers.SIZES, 250, fixed=True),
    "openvino": BatchSizes((1, 4, 16, 64), 1, fixed=True),
    "cpu": BatchSizes((1, 4, 16, 64), 1, between=(2, 8, 32)),
}


def batch_sizes(device: str) -> BatchSizes:
    """Those of a device with its precision, such as ``cpu-fp32``."""
    return _BATCH_SIZES[device.partition("-")[0]]


def open_session(
    onnx: Path,
    device: Device = "auto",
    threads: int | None = None,
    *,
    batch: int | None = None,
    content: bytes | None = None,
    form: Form = PLAIN,
) -> tuple[onnxruntime.InferenceSession, str]:
    """A session on the device, or if that is unavailable on the next best one, with a warning that gives the reason.

    ``auto`` is CUDA where there is an NVIDIA GPU, OpenVINO in bfloat16 where the processor has instructions for it
    (twice to five times the speed of float32), and ONNX Runtime's own float32 kernels otherwise. TensorRT is never
    chosen automatically, since it compiles for minutes at its first start.

    Args:
        onnx: the file of the network.
        device: what is asked for.
        threads: threads of one inference; as many as there are cores where it is None.
        batch: the only batch size it will be given, if the device needs a session for each.
        content: of the file, where it has been read already and may have changed since.
        form: in which it runs if that is with CUDA.

    Returns:
        The session, and the name of the device it runs on.

    Raises:
        Exception: ONNX Runtime cannot load the network, and no device is to blame.
    """
    threads = threads or cores()

    def told(candidate: str) -> dict[str, dict[str, Any]]:
        match candidate:
            case "tensorrt":
                sha256 = hashlib.sha256(content or onnx.read_bytes()).hexdigest()
                return {"tensorrt": providers.tensorrt(onnx, sha256, batch or 1), **told("cuda")}
            case "cuda":
                return {"cuda": providers.cuda(batch or 1, form.graph), "cpu": {}}
            case "openvino":
                return {"openvino": providers.openvino(threads, has_bfloat16())}
            case _:
                return {"cpu": {}}

    for candidate in _candidates(device):
        if not is_available(candidate):
            why = f"this ONNX Runtime has no {_PROVIDERS[candidate]}; install {gpu_errors.distribution(candidate)}"
        elif on_gpu(candidate) and (missing := gpu_errors.no_driver()):
            why = missing
        else:
            # Where a GPU computes, threads would wait for nothing, in every session.
            options = _options(1 if on_gpu(candidate) else threads, batch if _BATCH_SIZES[candidate].fixed else None)
            try:
                session = _session(content or onnx, options, told(candidate))
            except Exception as error:  # ONNX Runtime's exceptions have no other common base class
                fault = gpu_errors.fault(error) if on_gpu(candidate) else None
                if fault is None:
                    raise
                why = fault.advice
            else:
                if _PROVIDERS[candidate] in session.get_providers():
                    return session, _name(candidate, form)
                why = gpu_errors.not_loaded(candidate)
        if device != "auto":
            log.warning("EYESTATE_DEVICE=%s cannot be used: %s; falling back", candidate, why)
    raise AssertionError("the CPU is always available")


def returning_memory() -> onnxruntime.RunOptions:
    """Options for an inference on the CPU after which ONNX Runtime keeps no memory that it does not use."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def is_available(device: str) -> bool:
    """Whether this ONNX Runtime has what it takes for the device; its driver may still be missing."""
    return _PROVIDERS[device] in onnxruntime.get_available_providers()


def on_gpu(device: str) -> bool:
    """Whether a device, with or without its precision, is a GPU."""
    return device.startswith(("cuda", "tensorrt"))


def resizing_session() -> onnxruntime.InferenceSession:
    """A session with CUDA of ``gpu_graph.resizing``.

    Raises:
        ImportError: there is no package ``onnx``.
    """
    from eyestate.gpu_graph import resizing  # noqa: PLC0415  # onnx, of the extra `gpu`

    options = _options(1, None)
    # A fused product of matrices would exist for float32 only.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    told = {"cuda": providers.resizing(), "cpu": {}}
    return _session(resizing(), options, {name: how for name, how in told.items() if is_available(name)})


def cores() -> int:
    """The number of CPU cores this process may use: its affinity, limited by its control group's quota (rounded up)."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return allowed
    return allowed if quota == "max" else max(1, min(allowed, -(-int(quota) // int(period))))


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices (AVX-512 BF16 or AMX)."""
    try:
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def _candidates(device: Device) -> list[str]:
    if device == "auto":
        return ["cuda", *(["openvino"] if has_bfloat16() else []), "cpu"]
    fallback = {"tensorrt": ["cuda", "cpu"], "cuda": ["cpu"], "openvino": ["cpu"], "cpu": []}
    return [device, *fallback[device]]


def _load_cuda() -> None:
    """Load the libraries of CUDA and cuDNN from Python packages, where ONNX Runtime does not look for them.

    It prints what it cannot load; the log gets that. Its warnings, which do not concern a single session and so go
    through its default logger, are kept off the terminal: with CUDA there are hundreds.
    """
    onnxruntime.set_default_logger_severity(_ERRORS)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        onnxruntime.preload_dlls()
    for line in printed.getvalue().splitlines():
        log.info(line)


def _options(threads: int, batch: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS
    if batch:
        options.add_free_dimension_override_by_name("batch", batch)
    # Spinning threads would take the cores away from other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(
    network: Path | bytes, options: onnxruntime.SessionOptions, told: dict[str, dict[str, Any]]
) -> onnxruntime.InferenceSession:
    """A session with what each device is told, the first choice first."""
    if "cuda" in told:
        _load_cuda()
    return onnxruntime.InferenceSession(
        network,
        options,
        providers=[_PROVIDERS[device] for device in told],
        provider_options=list(told.values()),
        enable_fallback=0,  # which would print the error and go on with the CPU
    )


def _name(device: str, form: Form) -> str:
    """The name of the device in ``/readyz``, metrics and logs, with its precision."""
    precision = {
        "tensorrt": "fp16",
        "cuda": "fp16" if form.half else "tf32",
        "openvino": "bf16" if has_bfloat16() else "fp32",
        "cpu": "fp32",
    }
    return f"{device}-{precision[device]}"
