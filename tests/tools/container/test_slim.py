from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.container import slim

PACKAGES = "lib/python3.11/site-packages"


def put(root: Path, *paths: str, content: str = "") -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content or path)


def test_unused_files_are_removed(tmp_path: Path) -> None:
    gone = (
        "numpy/core/tests/test_it.py",
        "numpy/_core/include/numpy.h",
        "onnxruntime/capi/libopenvino_intel_gpu_plugin.so",
        "onnxruntime/tools/check.py",
        "pyarrow/libarrow_flight.so.2600",
    )
    kept = ("numpy/core/numeric.py", "onnxruntime/capi/libopenvino_intel_cpu_plugin.so", "pyarrow/libarrow.so.2600")
    put(tmp_path, *gone, *kept)
    slim.remove_unused(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == set(kept)


def test_identical_libraries_become_links(tmp_path: Path) -> None:
    put(tmp_path, "a/lib.so", "a/lib.so.1", "a/lib.so.1.2", "b/lib.so", content="same")
    put(tmp_path, "a/other.so")
    slim.link_copies(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_symlink()} == {"lib.so.1", "lib.so.1.2"}
    assert (tmp_path / "a" / "lib.so.1.2").read_text() == "same"


def test_compiled_modules_ignore_modification_times(tmp_path: Path) -> None:
    put(tmp_path, f"{PACKAGES}/module.py", content="VALUE = 1\n")
    subprocess.run([sys.executable, slim.__file__, tmp_path], check=True)
    packages = tmp_path / PACKAGES
    put(tmp_path, f"{PACKAGES}/module.py", content="VALUE = 2  # as if copied at another time\n")
    said = subprocess.check_output(
        [sys.executable, "-c", "import module; print(module.VALUE)"], cwd=packages, text=True
    )
    assert said == "1\n"
