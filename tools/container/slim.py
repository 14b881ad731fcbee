"""Remove from a virtual environment what serving never uses, and compile the rest: a step of the image build.

``python slim.py ENVIRONMENT``; it needs only the standard library.
"""

from __future__ import annotations

import compileall
import hashlib
import shutil
import sys
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Final

UNUSED: Final = (
    "**/tests",
    "**/include",  # headers, useless without a compiler
    "onnxruntime/capi/libonnxruntime.so*",  # for C programs; the Python module contains the same code
    "onnxruntime/capi/libopenvino_intel_[gn]pu_plugin.so",
    "onnxruntime/quantization",
    "onnxruntime/tools",
    "onnxruntime/transformers",
    "pyarrow/*_flight*",
    "pyarrow/*s3*.so*",
)


def remove_unused(packages: Path) -> None:
    """Remove the files and folders matched by ``UNUSED``.

    Args:
        packages: the folder ``site-packages``.
    """
    for pattern in UNUSED:
        for path in sorted(packages.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def link_copies(packages: Path) -> None:
    """Replace identical libraries by links: a wheel cannot contain links, so it contains copies.

    Args:
        packages: the folder ``site-packages``.
    """
    seen: dict[tuple[Path, str], Path] = {}
    for path in sorted(packages.rglob("*.so*")):
        if path.is_symlink() or not path.is_file():
            continue
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        first = seen.setdefault((path.parent, content), path)
        if first is not path:
            path.unlink()
            path.symlink_to(first.name)


def compile_modules(packages: Path) -> None:
    """Compile all modules, since a read-only file system could not keep what is compiled at startup.

    The compiled files stay valid whatever modification times the sources have in the image.

    Args:
        packages: the folder ``site-packages``.
    """
    compileall.compile_dir(packages, quiet=1, workers=0, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)


def main() -> None:
    """Slim the environment named on the command line."""
    environment = Path(sys.argv[1])
    for packages in environment.glob("lib/python3*/site-packages"):
        remove_unused(packages)
        link_copies(packages)
        compile_modules(packages)


if __name__ == "__main__":
    main()
