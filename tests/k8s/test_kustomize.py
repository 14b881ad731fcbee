"""Every stack is built by the real kustomize, and holds what it should."""

from __future__ import annotations

import re

import pytest
import yaml

from eyestate import __version__
from tests.k8s.manifests import K8S, OVERLAYS, STACKS, Stack, only, pod_specs, render
from tools.container.build import tag

IMAGES = yaml.safe_load((K8S / "components" / "image" / "kustomization.yaml").read_text())["images"]
REGISTRY = "registry.example.com"
NAMESPACED_ELSEWHERE = ("kserve", "monitoring")  # installed where the operator's own things are
CLUSTER_WIDE = ("Namespace", "PriorityClass")


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_builds_and_puts_everything_into_one_namespace(stack: Stack) -> None:
    objects = render(stack)
    assert objects
    if stack[0] not in NAMESPACED_ELSEWHERE:
        namespaces = {each["metadata"].get("namespace") for each in objects if each["kind"] not in CLUSTER_WIDE}
        assert namespaces == {"eyestate"}


@pytest.mark.parametrize("stack", OVERLAYS, ids="+".join)
def test_the_image_is_the_one_that_make_image_builds(stack: Stack) -> None:
    (container,) = pod_specs(render(stack))[0]["containers"]
    assert container["image"] == f"{REGISTRY}/{tag('cuda' if stack[0] == 'overlays/gpu' else 'cpu')}"


def test_batch_and_kserve_use_the_small_image() -> None:
    assert pod_specs(render(("batch",)))[0]["containers"][0]["image"] == f"{REGISTRY}/{tag('cpu')}"
    predictor = only(render(("kserve",)), "InferenceService")["spec"]["predictor"]
    assert predictor["containers"][0]["image"] == f"{REGISTRY}/{tag('cpu')}"


def test_images_are_named_in_one_place() -> None:
    """A registry, a tag or a digest is set once, for every stack."""
    files = [path for path in K8S.rglob("*.yaml") if path.parent.name != "image"]
    assert [path for path in files if re.search("newName|newTag|digest:", path.read_text())] == []
    named = [re.findall(r"^\s+(?:image:|value:) (eyestate-\w+)(?: #.*)?$", path.read_text(), re.M) for path in files]
    assert {name for names in named for name in names} <= {image["name"] for image in IMAGES}
    for stack in STACKS:
        containers = [each for spec in pod_specs(render(stack)) for each in spec["containers"]]
        assert all(each["image"].startswith(f"{REGISTRY}/eyestate:") for each in containers)


@pytest.mark.parametrize("stack", [*OVERLAYS, ("batch",)], ids="+".join)
def test_the_standard_labels_are_there_with_the_version_of_the_code(stack: Stack) -> None:
    for each in render(stack):
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/version"] == __version__
        assert labels["app.kubernetes.io/part-of"] == "eyestate"
        assert labels["app.kubernetes.io/managed-by"] == "kustomize"


def test_keda_takes_the_place_of_the_autoscaler_under_its_name() -> None:
    plain, keda = render(("overlays/cpu",)), render(("overlays/cpu", "gateway", "keda"))
    autoscaler = only(plain, "HorizontalPodAutoscaler")
    assert not [each for each in keda if each["kind"] == "HorizontalPodAutoscaler"]
    config = only(keda, "ScaledObject")["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
    assert config["name"] == autoscaler["metadata"]["name"]
    assert config["behavior"] == autoscaler["spec"]["behavior"]


def test_a_changed_setting_changes_the_name_of_the_configuration_and_so_rolls_out() -> None:
    cpu, gpu = (only(render((f"overlays/{name}",)), "ConfigMap") for name in ("cpu", "gpu"))
    assert cpu["data"]["EYESTATE_DEVICE"] == "auto"
    assert gpu["data"]["EYESTATE_DEVICE"] == "cuda"
    assert cpu["metadata"]["name"] != gpu["metadata"]["name"]
    for stack, configuration in ((("overlays/cpu",), cpu), (("overlays/gpu",), gpu)):
        (container,) = pod_specs(render(stack))[0]["containers"]
        assert container["envFrom"] == [{"configMapRef": {"name": configuration["metadata"]["name"]}}]


def test_a_gpu_pod_gets_a_gpu_and_says_so() -> None:
    template = only(render(("overlays/gpu",)), "Deployment")["spec"]["template"]
    assert template["metadata"]["labels"]["accelerator"] == "gpu"
    spec = template["spec"]
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    resources = spec["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"
