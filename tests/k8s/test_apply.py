"""`kubectl apply`, again, and `kubectl delete`, against a stand-in for the API server."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.k8s.api_server import api_server
from tests.k8s.manifests import K8S, STACKS, Manifest, Stack, render, write
from tests.k8s.tools import kubectl

Kubectl = Callable[..., str]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Kubectl]:
    """kubectl with an empty cluster that has a namespace `default`."""
    home = {"HOME": str(tmp_path)}  # its cache of what the server has
    with api_server() as url:

        def run(*arguments: str | Path, status: int = 0) -> str:
            command = [kubectl(), "--server", url, *arguments]
            result = subprocess.run(command, env=home, capture_output=True, text=True, check=False, timeout=60)
            assert result.returncode == status, result.stdout + result.stderr
            return result.stdout + result.stderr

        yield run


def outcomes(output: str) -> dict[str, str]:
    """What kubectl says it did: `deployment.apps/eyestate` was `created`."""
    return {name: word for line in output.splitlines() for name, word in [line.rsplit(" ", 1)]}


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_applied_twice_and_deleted(stack: Stack, cluster: Kubectl, tmp_path: Path) -> None:
    if stack[0] in ("batch", "monitoring"):
        cluster("apply", "--filename", K8S / "base" / "namespace.yaml", "--validate=false")
    folder = write(stack, tmp_path)
    apply = ("apply", "--kustomize", folder, "--validate=false")  # the server validates; it has no OpenAPI to offer

    first = outcomes(cluster(*apply))
    assert len(first) == len(render(stack))
    assert set(first.values()) == {"created"}

    again = outcomes(cluster(*apply))
    assert again.keys() == first.keys()
    # kubectl always sends the selector of a budget, which may only be replaced as a whole.
    changed = {name for name, word in again.items() if word != "unchanged" and "poddisruptionbudget" not in name}
    assert not changed

    kept = json.loads(cluster("get", "--kustomize", folder, "--output=json"))
    assert [without_notes(each) for each in kept.get("items", [kept])] == [
        without_notes(each) for each in render(stack)
    ]

    deleted = cluster("delete", "--kustomize", folder, "--timeout=30s")
    assert deleted.count(" deleted") == len(first)
    assert not cluster("get", "--kustomize", folder, "--ignore-not-found")


def test_a_new_setting_rolls_out_and_the_rest_stays(cluster: Kubectl, tmp_path: Path) -> None:
    folder = write(("overlays/cpu",), tmp_path)
    cluster("apply", "--kustomize", folder, "--validate=false")
    base = folder.parents[1] / "base" / "kustomization.yaml"
    base.write_text(base.read_text().replace("EYESTATE_LOG_LEVEL=info", "EYESTATE_LOG_LEVEL=debug"))
    words = outcomes(cluster("apply", "--kustomize", folder, "--validate=false"))
    configuration = next(name for name in words if name.startswith("configmap/"))
    assert words[configuration] == "created"
    assert words["deployment.apps/eyestate"] == "configured"
    assert words["service/eyestate"] == words["horizontalpodautoscaler.autoscaling/eyestate"] == "unchanged"


def test_the_number_of_pods_survives_another_apply(cluster: Kubectl, tmp_path: Path) -> None:
    folder = write(("overlays/cpu",), tmp_path)
    cluster("apply", "--kustomize", folder, "--validate=false")
    deployment = ("deployment", "eyestate", "--namespace=eyestate")
    cluster("patch", *deployment, "--type=merge", '--patch={"spec": {"replicas": 7}}')  # as an autoscaler does
    cluster("apply", "--kustomize", folder, "--validate=false")
    assert json.loads(cluster("get", *deployment, "--output=json"))["spec"]["replicas"] == 7


def test_the_stand_in_refuses_what_kubernetes_would(cluster: Kubectl, tmp_path: Path) -> None:
    folder = write(("overlays/cpu",), tmp_path)
    deployment = folder.parents[1] / "base" / "deployment.yaml"
    deployment.write_text(deployment.read_text().replace("minReadySeconds", "minReadySecond"))
    assert "minReadySecond" in cluster("apply", "--kustomize", folder, "--validate=false", status=1)


def test_a_batch_job_needs_the_namespace_of_the_service(cluster: Kubectl) -> None:
    refused = cluster("apply", "--kustomize", K8S / "batch", "--validate=false", status=1)
    assert 'namespaces "eyestate" not found' in refused


def without_notes(manifest: Manifest) -> Manifest:
    """An object without what kubectl adds: what was applied, and the namespace where there is none."""
    metadata = {
        field: value for field, value in manifest["metadata"].items() if field not in ("annotations", "namespace")
    }
    notes = "kubectl.kubernetes.io/last-applied-configuration"
    metadata["annotations"] = {k: v for k, v in manifest["metadata"].get("annotations", {}).items() if k != notes}
    metadata["namespace"] = manifest["metadata"].get("namespace", "default")
    return manifest | {"metadata": metadata}
