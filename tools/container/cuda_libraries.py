"""Print the library that CUDA lacks in a container; ``check.py`` pipes this file into its Python."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import onnxruntime

if __name__ == "__main__":
    onnxruntime.preload_dlls()
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        for name in ("shared", "cuda"):
            library = folder / f"libonnxruntime_providers_{name}.so"
            ctypes.CDLL(str(library), mode=os.RTLD_GLOBAL | os.RTLD_LAZY)
    except OSError as error:
        print(str(error).partition(":")[0])
    else:
        print("none")
