"""Print facts about the inside of a container as JSON; ``check.py`` pipes this file into its Python."""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import json
import os
import shutil
import tempfile

FOLDERS = ("/", "/app", "/etc", "/home", "/models", "/opt/eyestate", "/root", "/run", "/tmp", "/usr", "/var/tmp")  # noqa: S108
PROGRAMS = ("cc", "gcc", "g++", "clang", "ld", "make", "curl", "wget", "git")
MODULES = ("torch", "pip", "setuptools", "uv", "training", "tests", "loadtests", "pytest")


def writing(folder: str) -> str:
    """Outcome of creating a file in the folder: works, or the error code."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return "works"
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def status() -> dict[str, str]:
    """The kernel's status of this process."""
    with open("/proc/self/status") as file:  # noqa: PTH123
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def memory() -> int:
    """Memory in bytes of the container's processes except this one (PSS)."""
    import psutil  # noqa: PLC0415

    others = [process for process in psutil.process_iter() if process.pid != os.getpid()]
    return sum(process.memory_full_info().pss for process in others)


if __name__ == "__main__":
    print(
        json.dumps(
            {
                "uid": os.getuid(),
                "gid": os.getgid(),
                "capabilities": status()["CapEff"].strip(),
                "writing": {folder: writing(folder) for folder in FOLDERS},
                "programs": [name for name in PROGRAMS if shutil.which(name)],
                "modules": [name for name in MODULES if importlib.util.find_spec(name)],
                "packages": len(list(importlib.metadata.distributions())),
                "memory_bytes": memory() if os.getuid() else None,
            }
        )
    )
