"""What the API server would refuse: fields that do not exist, values of the wrong type."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Final

import kubernetes_validate  # type: ignore[import-untyped]

from tests import npm
from tests.k8s.manifests import Manifest

KUBERNETES: Final = "1.37"  # the version of kubectl, and the newest that the schemas are there for

# The packages whose types describe the custom resources.
_MODULES: Final = {
    "ExternalSecret": "@kubernetes-models/external-secrets/external-secrets.io/v1/ExternalSecret",
    "HTTPRoute": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute",
    "PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
    "ServiceMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
}
_NPM: Final = (
    "@kubernetes-models/external-secrets@2.0.0",
    "@kubernetes-models/gateway-api@2.0.0",
    "@kubernetes-models/keda@2.0.0",
    "@kubernetes-models/prometheus-operator@6.0.0",
    "typescript@5.9.3",
)
CUSTOM: Final = frozenset(_MODULES)
_KSERVE: Final = frozenset({"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout"})


def fault(manifest: Manifest) -> str:
    """What is wrong with an object under the strict schemas of Kubernetes; empty where nothing is.

    KServe publishes no schema in a package. Its predictor is a pod's spec with fields of its own beside, of which the
    few that are used here are known by name; the rest is checked as a pod.
    """
    if manifest["kind"] == "InferenceService":
        if surplus := set(manifest["spec"]) - {"predictor"}:
            return f"spec: {surplus} are not expected"
        predictor = manifest["spec"]["predictor"]
        spec = {field: value for field, value in predictor.items() if field not in _KSERVE}
        manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": manifest["metadata"], "spec": spec}
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return ""


def custom_resource_faults(manifests: Sequence[Manifest]) -> str:
    """What is wrong with custom resources; empty where nothing is.

    The packages' validators look at values and let unknown fields pass, TypeScript's compiler finds those: an object
    written down may have no property that its type does not have.
    """
    folder = npm.installed("k8s", *_NPM)
    lines = [f'import {{ {kind}, type I{kind} }} from "{module}";' for kind, module in _MODULES.items()]
    for number, manifest in enumerate(manifests):
        kind = manifest["kind"]
        lines.append(f"const object{number}: I{kind} = {json.dumps(manifest)};")
        lines.append(f"new {kind}(object{number}).validate();")
    (folder / "check.mts").write_text("\n".join(lines))
    compiler = folder / "node_modules" / "typescript" / "bin" / "tsc"
    options = ["--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext", "--noEmitOnError"]
    for command in (["node", str(compiler), *options, "check.mts"], ["node", "check.mjs"]):
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
        if result.returncode:
            return result.stdout + result.stderr
    return ""
