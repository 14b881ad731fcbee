"""What each execution provider of ONNX Runtime is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from eyestate.settings import settings

SIZES: Final = (1, 4, 16, 64, 256, 1024)  # the batch sizes that a GPU gets, each in a session of its own

_RESIZING_MEMORY: Final = 256 * 2**20  # bytes: 1,024 crops of 96 px in float64, once along either axis
_FIXED_MEMORY: Final = 64 * 2**20  # bytes of a session whatever its batch size: weights, and cuDNN's workspace
# Measured on an H200: with the bias fused into the convolution, 1,024 crops take 0.73 of the time, 256 take 1.25.
_LEAST_FUSED: Final = 1024
_ARENA: Final = {"arena_extend_strategy": "kSameAsRequested"}  # the default doubles it each time that it grows


def openvino(threads: int, bfloat16: bool) -> dict[str, Any]:
    """OpenVINO on the CPU, with that many threads of one inference, in bfloat16 or in float32."""
    # Its option `precision` rejects BF16 on CPUs, this one does not.
    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # pinning would put the threads of all workers on the first cores
    }
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": hints})}


def cuda(batch: int, graph: bool = False) -> dict[str, str]:
    """CUDA, for a session that is given this batch size only, as one CUDA graph or kernel by kernel.

    cuDNN chooses its algorithms when a session meets a shape that is not the one before, so with one batch size it does
    so once. ``EXHAUSTIVE`` is the more thorough of its heuristics. Without ``use_tf32`` ONNX Runtime keeps convolutions
    off the tensor cores, those in float16 too.
    """
    options = {
        "enable_cuda_graph": str(int(graph)),
        "prefer_nhwc": "1",
        "fuse_conv_bias": str(int(batch >= _LEAST_FUSED)),
        "use_tf32": "1",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        **_ARENA,
    }
    if limit := settings().gpu_memory:
        options["gpu_mem_limit"] = str(memory_share(limit * 2**20, batch))
    return options


def resizing() -> dict[str, str]:
    """CUDA, for the session that resizes crops for those of a network."""
    limit = {"gpu_mem_limit": str(_RESIZING_MEMORY)} if settings().gpu_memory else {}
    return _ARENA | limit


def memory_share(limit: int, batch: int) -> int:
    """The bytes that the session of a batch size may take, so that all sessions together stay within ``limit``.

    Args:
        limit: bytes of all sessions of a network, with the one that resizes.
        batch: one of ``SIZES``.
    """
    shared = limit - _RESIZING_MEMORY - len(SIZES) * _FIXED_MEMORY
    return _FIXED_MEMORY + shared * batch // sum(SIZES)


def tensorrt(onnx: Path, sha256: str, batch: int) -> dict[str, str]:
    """TensorRT, for a session that is given this batch size only.

    Engines, which take minutes to build, are kept where ``$EYESTATE_ENGINES`` says, else beside the network if its
    folder can be written to.

    Args:
        onnx: the file of the network.
        sha256: of its content: the engines of another must not be taken for its own.
        batch: the batch size.
    """
    given = settings().engines
    folder = given or onnx.parent / ".tensorrt"
    kept = str(int(given is not None or os.access(onnx.parent, os.W_OK)))
    options = {
        "trt_fp16_enable": "1",
        "trt_cuda_graph_enable": "1",
        "trt_engine_cache_enable": kept,
        "trt_engine_cache_path": str(folder),
        "trt_engine_cache_prefix": f"{onnx.parent.name}-{sha256[:12]}-{batch}",
        "trt_timing_cache_enable": kept,
        "trt_timing_cache_path": str(folder),
    }
    if limit := settings().gpu_memory:
        options["trt_max_workspace_size"] = str(memory_share(limit * 2**20, batch))
    return options
