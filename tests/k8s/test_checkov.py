"""checkov's rules for Kubernetes and Dockerfiles. What it passes over, and why, is in `k8s/checkov.yaml`."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.k8s.manifests import K8S, STACKS, render
from tests.k8s.tools import CHECKOV, PROJECT

pytestmark = pytest.mark.skipif(not CHECKOV.exists(), reason="checkov is not installed; make k8s-check does that")


def checkov(files: Sequence[Path]) -> subprocess.CompletedProcess[str]:
    arguments = [part for file in files for part in ("--file", str(file))]
    return subprocess.run(
        [CHECKOV, "--config-file", K8S / "checkov.yaml", "--skip-download", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_it_finds_nothing_in_the_manifests_and_the_dockerfile(tmp_path: Path) -> None:
    files = [PROJECT / "Dockerfile"]
    for stack in STACKS:
        files.append(tmp_path / f"{'-'.join(stack).replace('/', '-')}.yaml")
        files[-1].write_text(yaml.safe_dump_all(render(stack)))
    result = checkov(files)
    assert result.returncode == 0, result.stdout + result.stderr


def test_it_finds_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "deployment.yaml"
    file.write_text(
        yaml.safe_dump_all(render(("overlays/cpu",))).replace(
            "readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"
        )
    )
    result = checkov([file])
    assert result.returncode == 1
    assert "CKV_K8S_22" in result.stdout
