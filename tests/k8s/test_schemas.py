"""Every object is valid under the strict schemas of what will receive it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from tests.k8s.manifests import STACKS, Manifest, Stack, only, render
from tests.k8s.schemas import CUSTOM, custom_resource_faults, fault


def changed(manifest: Manifest, path: str, value: Any) -> Manifest:
    """A copy with one more field, or another value."""
    copy = deepcopy(manifest)
    *parents, name = path.split(".")
    place: Any = copy
    for parent in parents:
        place = place[int(parent) if parent.isdecimal() else parent]
    place[name] = value
    return copy


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_kubernetes_accepts_every_object(stack: Stack) -> None:
    faults = {each["metadata"]["name"]: fault(each) for each in render(stack) if each["kind"] not in CUSTOM}
    assert not any(faults.values()), faults


@pytest.mark.parametrize(
    ("stack", "kind", "path", "value"),
    [
        ("overlays/cpu", "Deployment", "spec.template.spec.containers.0.readOnlyRootFileSystem", True),
        ("overlays/cpu", "Deployment", "spec.template.spec.containers.0.readinessProbe.periodSecond", 5),
        ("overlays/cpu", "HorizontalPodAutoscaler", "spec.behavior.scaleUp.stabilisationWindowSeconds", 0),
        ("overlays/cpu", "HorizontalPodAutoscaler", "spec.minReplicas", "2"),
        ("overlays/cpu", "NetworkPolicy", "spec.podSelektor", {}),
        ("batch", "Job", "spec.podFailurePolicy.rules.0.onExitCode", {}),
        ("kserve", "InferenceService", "spec.predictor.minReplica", 2),
        ("kserve", "InferenceService", "spec.predictor.containers.0.livenesProbe", {}),
    ],
)
def test_a_misspelt_field_or_a_wrong_type_is_found(stack: str, kind: str, path: str, value: Any) -> None:
    objects = render((stack,))
    name = "eyestate" if kind == "NetworkPolicy" else None
    assert fault(changed(only(objects, kind, name), path, value))


@pytest.fixture(scope="module")
def custom_resources() -> list[Manifest]:
    return [each for stack in STACKS for each in render(stack) if each["kind"] in CUSTOM]


def test_the_custom_resources_are_accepted(custom_resources: list[Manifest]) -> None:
    assert {"ExternalSecret", "HTTPRoute", "ScaledObject"} <= {each["kind"] for each in custom_resources}
    assert not custom_resource_faults(custom_resources)


def test_faults_in_custom_resources_are_found(custom_resources: list[Manifest]) -> None:
    scaled, route = (
        next(each for each in custom_resources if each["kind"] == kind) for kind in ("ScaledObject", "HTTPRoute")
    )
    types = custom_resource_faults(
        [
            changed(scaled, "spec.triggers.0.metricTyp", "Value"),
            changed(scaled, "spec.fallback.behaviour", "static"),
            changed(scaled, "spec.fallback.behavior", "stay"),
            changed(route, "spec.rules.0.timeouts.backend", "65s"),
        ]
    )
    for complaint in ('"metricTyp"', '"behaviour"', '"stay"', '"backend"'):
        assert complaint in types
    value = custom_resource_faults([changed(route, "spec.rules.0.timeouts.request", "65 seconds")])
    assert "spec/rules/0/timeouts/request must match pattern" in value
