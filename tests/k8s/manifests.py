"""What kustomize makes of `k8s/`, as an operator would have it made."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.k8s.tools import PROJECT, kubectl

Manifest = dict[str, Any]

K8S: Final = PROJECT / "k8s"

# A folder of k8s/ and the components that are switched on in its kustomization.
Stack = tuple[str, ...]
OVERLAYS: Final[tuple[Stack, ...]] = (
    ("overlays/cpu",),
    ("overlays/cpu", "gateway", "keda"),
    ("overlays/cpu", "ingress"),
    ("overlays/gpu",),
    ("overlays/gpu", "gateway", "ingress", "keda"),
)
CANARY: Final[Stack] = ("overlays/cpu", "gateway", "keda", "external-secrets", "tracing", "canary")
STACKS: Final[tuple[Stack, ...]] = (
    *OVERLAYS,
    CANARY,
    ("batch",),
    ("kserve",),
    *((("monitoring",),) if (K8S / "monitoring" / "kustomization.yaml").exists() else ()),
)


@cache
def render(stack: Stack) -> tuple[Manifest, ...]:
    """The objects of a stack, as `kubectl kustomize` prints them."""
    with tempfile.TemporaryDirectory() as folder:
        command: list[str | Path] = [kubectl(), "kustomize", write(stack, Path(folder))]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stderr, result.stderr  # such as a warning of a field that goes
    return tuple(yaml.safe_load_all(result.stdout))


def write(stack: Stack, folder: Path) -> Path:
    """Copy `k8s/` to a folder, switch a stack's components on, and return the stack's folder there."""
    copy = folder / "k8s"
    shutil.copytree(K8S, copy)
    kustomization = copy / stack[0] / "kustomization.yaml"
    text = kustomization.read_text()
    for component in stack[1:]:
        text, found = re.subn(rf"^( *)# (- \.\./\.\./components/{component})\b", r"\1\2", text, flags=re.MULTILINE)
        assert found == 1, f"{kustomization} does not offer {component}"
    kustomization.write_text(text)
    return copy / stack[0]


def only(objects: Sequence[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The one object of a kind, and of a name where there are several."""
    found = [each for each in objects if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} × {kind} {name or ''}"
    return found[0]


def pod_specs(objects: Sequence[Manifest]) -> list[Manifest]:
    """The pod templates' specs of deployments and jobs."""
    return [each["spec"]["template"]["spec"] for each in objects if each["kind"] in ("Deployment", "Job")]


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether an object with these labels is selected."""
    return bool(selector) and selector.items() <= labels.items()
