"""What the objects say of one another, of the service and of its metrics is true."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from prometheus_client.registry import REGISTRY

import eyestate.server.metrics  # noqa: F401  # registers the metrics
from eyestate.bundle import DEFAULT_MODEL
from eyestate.settings import PREFIX, Settings
from tests.k8s.manifests import CANARY, K8S, OVERLAYS, STACKS, Manifest, Stack, matches, only, pod_specs, render

MONITOR = K8S / "monitoring" / "service-monitor.yaml"
REPORTS = K8S.parent / "reports"


@pytest.fixture(params=OVERLAYS, ids="+".join)
def objects(request: pytest.FixtureRequest) -> tuple[Manifest, ...]:
    stack: Stack = request.param
    return render(stack)


def pod_labels(objects: tuple[Manifest, ...], kind: str = "Deployment") -> dict[str, str]:
    labels: dict[str, str] = only(objects, kind)["spec"]["template"]["metadata"]["labels"]
    return labels


def test_everything_that_selects_pods_selects_the_servers_and_no_batch(objects: tuple[Manifest, ...]) -> None:
    deployment = only(objects, "Deployment")
    selectors = {
        "deployment": deployment["spec"]["selector"]["matchLabels"],
        "service": only(objects, "Service")["spec"]["selector"],
        "budget": only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    }
    for spread in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
        selectors[spread["topologyKey"]] = spread["labelSelector"]["matchLabels"]
    for policy in (each for each in objects if each["kind"] == "NetworkPolicy"):
        if policy["metadata"]["name"] != "default-deny":
            selectors[policy["metadata"]["name"]] = policy["spec"]["podSelector"]["matchLabels"]
    assert all(matches(selector, pod_labels(objects)) for selector in selectors.values()), selectors
    batch = pod_labels(render(("batch",)), "Job")
    assert not any(matches(selector, batch) for selector in selectors.values()), selectors


def test_the_autoscaler_scales_the_deployment(objects: tuple[Manifest, ...]) -> None:
    target = {
        each["kind"]: each["spec"]["scaleTargetRef"] for each in objects if "scaleTargetRef" in each.get("spec", {})
    }
    assert len(target) == 1
    assert next(iter(target.values()))["name"] == only(objects, "Deployment")["metadata"]["name"]
    assert "replicas" not in only(objects, "Deployment")["spec"]


def test_every_port_that_is_named_is_there(objects: tuple[Manifest, ...]) -> None:
    (container,) = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    container_ports = {port["name"] for port in container["ports"]}
    service = only(objects, "Service")["spec"]["ports"]
    assert {port["targetPort"] for port in service} <= container_ports
    assert {
        container[f"{probe}Probe"]["httpGet"]["port"] for probe in ("startup", "readiness", "liveness")
    } <= container_ports
    for each in objects:
        if each["kind"] == "NetworkPolicy":
            ports = [port["port"] for rule in each["spec"].get("ingress", ()) for port in rule["ports"]]
            assert set(ports) <= container_ports
        if each["kind"] == "Ingress":
            paths = each["spec"]["rules"][0]["http"]["paths"]
            assert {path["backend"]["service"]["port"]["name"] for path in paths} <= {port["name"] for port in service}
        if each["kind"] == "HTTPRoute":
            backends = [backend["port"] for rule in each["spec"]["rules"] for backend in rule["backendRefs"]]
            assert set(backends) <= {port["port"] for port in service}


def test_the_grace_period_covers_the_longest_good_end(objects: tuple[Manifest, ...]) -> None:
    settings = only(objects, "ConfigMap")["data"]
    spec = only(objects, "Deployment")["spec"]["template"]["spec"]
    ways = float(settings["EYESTATE_DRAIN"]) + float(settings["EYESTATE_TIMEOUT"])
    pause = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert spec["terminationGracePeriodSeconds"] >= pause + ways + 5


def test_kserve_stops_its_pods_as_gently() -> None:
    predictor = only(render(("kserve",)), "InferenceService")["spec"]["predictor"]
    deployment = only(render(("overlays/cpu",)), "Deployment")["spec"]["template"]["spec"]
    assert predictor["terminationGracePeriodSeconds"] == deployment["terminationGracePeriodSeconds"]
    theirs, ours = predictor["containers"][0], deployment["containers"][0]
    for field in ("image", "lifecycle", "resources", "securityContext"):
        assert theirs[field] == ours[field]


def test_kserve_serves_the_default_model_and_asks_for_keys() -> None:
    predictor = only(render(("kserve",)), "InferenceService")["spec"]["predictor"]
    variables = {each["name"]: each["value"] for each in predictor["containers"][0]["env"]}
    ours = only(render(("overlays/cpu",)), "ConfigMap")["data"]
    assert variables.get("EYESTATE_MODEL", DEFAULT_MODEL) == ours["EYESTATE_MODEL"] == DEFAULT_MODEL
    assert variables["EYESTATE_API_KEYS_FILE"] == ours["EYESTATE_API_KEYS_FILE"]
    (volume,) = (each for each in predictor["volumes"] if "secret" in each)
    (mount,) = (each for each in predictor["containers"][0]["volumeMounts"] if each["name"] == volume["name"])
    assert variables["EYESTATE_API_KEYS_FILE"] == f"{mount['mountPath']}/keys"


def test_memory_covers_what_a_worker_takes(objects: tuple[Manifest, ...]) -> None:
    """The limit holds a worker under attack, as tests/service/test_memory.py measures it, and the content of /tmp.

    The request covers crops and large images.
    """
    spec = only(objects, "Deployment")["spec"]["template"]["spec"]
    page = (K8S.parent / "docs" / "operations.md").read_text()
    ceiling = int(re.search(r"A worker takes at most ([\d,]+) MiB", page)[1].replace(",", ""))  # type: ignore[index]  # else it fails
    measured = json.loads((REPORTS / "serving" / "footprint-cascade.json").read_text())["rows"]
    usual = max(row["memory"] for row in measured if row["load"].startswith(("single crops", "images")))
    workers = int(only(objects, "ConfigMap")["data"]["EYESTATE_WORKERS"])
    tmp = sum(mebibytes(each["emptyDir"]["sizeLimit"]) for each in spec["volumes"] if "emptyDir" in each)
    resources = spec["containers"][0]["resources"]
    assert mebibytes(resources["limits"]["memory"]) >= workers * ceiling + tmp
    assert mebibytes(resources["requests"]["memory"]) >= usual


def test_keda_scales_on_half_the_objective() -> None:
    """The waiting crops that a pod may have are about those it scores in half the objective, at the measured speed."""
    scaled = only(render(("overlays/cpu", "gateway", "keda")), "ScaledObject")["spec"]
    trigger = {each["name"]: each["metadata"] for each in scaled["triggers"] if each["type"] == "prometheus"}
    curve = json.loads((REPORTS / "capacity" / "capacity.json").read_text())["curves"][0]
    assert (curve["model"], curve["kind"], curve["placement"]["cores"]) == ("cascade", "single", 1)
    speed = max(point["crops_per_second"] for point in curve["points"])
    derived = speed * float(trigger["p95"]["threshold"]) / 2
    assert float(trigger["queue"]["threshold"]) == pytest.approx(derived, rel=1 / 3)
    page = (K8S.parent / "docs" / "operations.md").read_text()
    assert f"scaled-object.yaml` is {trigger['queue']['threshold']}, for such a core" in page


def test_a_canary_gets_part_of_the_traffic_under_a_name_of_its_own() -> None:
    objects = render(CANARY)
    backends = only(objects, "HTTPRoute")["spec"]["rules"][0]["backendRefs"]
    assert {each["name"]: each["weight"] for each in backends} == {"eyestate": 90, "eyestate-canary": 10}
    pods = {
        name: only(objects, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
        for name in ("eyestate", "eyestate-canary")
    }
    for name, own in pods.items():
        selector = only(objects, "Service", name)["spec"]["selector"]
        assert [each for each, labels in pods.items() if matches(selector, labels)] == [name]
        policies = [each["spec"]["podSelector"]["matchLabels"] for each in objects if allows_gateway(each)]
        assert any(matches(policy, own) for policy in policies)
    configurations = {
        only(objects, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"][
            "name"
        ]
        for name in pods
    }
    assert len(configurations) == 2


def test_traces_and_keys_from_a_store() -> None:
    objects = render(CANARY)
    endpoint = next(each["data"] for each in objects if "OTEL_EXPORTER_OTLP_ENDPOINT" in each.get("data", ()))
    port = int(endpoint["OTEL_EXPORTER_OTLP_ENDPOINT"].rpartition(":")[2])
    policy = only(objects, "NetworkPolicy", "eyestate-to-collector")["spec"]
    assert [each["port"] for rule in policy["egress"] for each in rule["ports"]] == [port]
    assert matches(policy["podSelector"]["matchLabels"], pod_labels(render(("overlays/cpu",))))
    target = only(objects, "ExternalSecret")["spec"]
    (volume,) = (
        each["secret"]
        for each in only(objects, "Deployment", "eyestate")["spec"]["template"]["spec"]["volumes"]
        if "secret" in each
    )
    assert target["target"]["name"] == volume["secretName"]
    assert [each["secretKey"] for each in target["data"]] == ["keys"]


def test_every_setting_is_one_and_has_a_valid_value(objects: tuple[Manifest, ...]) -> None:
    given = only(objects, "ConfigMap")["data"]
    fields = {name.removeprefix(PREFIX).lower(): value for name, value in given.items() if name != "EYESTATE_MODEL"}
    assert all(name.startswith(PREFIX) for name in given)
    assert fields.keys() <= Settings.model_fields.keys()
    Settings.model_validate(fields | {"api_keys_file": __file__})  # the Secret is not here


def test_the_keys_are_where_the_setting_says() -> None:
    objects = render(("overlays/cpu",))
    spec = only(objects, "Deployment")["spec"]["template"]["spec"]
    (volume,) = (each for each in spec["volumes"] if "secret" in each)
    (mount,) = (each for each in spec["containers"][0]["volumeMounts"] if each["name"] == volume["name"])
    assert only(objects, "ConfigMap")["data"]["EYESTATE_API_KEYS_FILE"] == f"{mount['mountPath']}/keys"
    assert "subPath" not in mount  # or the kubelet would not renew it


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
def test_pods_obey_the_restricted_standard(stack: Stack) -> None:
    """The rules of https://kubernetes.io/docs/concepts/security/pod-security-standards that these pods could break."""
    objects = render(stack)
    specs = pod_specs(objects)
    specs += [each["spec"]["predictor"] for each in objects if each["kind"] == "InferenceService"]
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 65532  # the image's
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}


def test_nothing_gets_in_but_through_the_gateway_from_prometheus_and_from_batch_jobs() -> None:
    objects = render(("overlays/cpu", "gateway", "keda"))
    policies = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "NetworkPolicy"}
    deny = policies.pop("default-deny")
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    sources = [source for policy in policies.values() for rule in policy["ingress"] for source in rule["from"]]
    namespaces = {names(source, "namespaceSelector").get("kubernetes.io/metadata.name") for source in sources}
    assert namespaces == {"monitoring", "gateway-system", None}
    within = [names(source, "podSelector") for source in sources if "namespaceSelector" not in source]
    assert [matches(selector, pod_labels(render(("batch",)), "Job")) for selector in within] == [True]
    egress = [rule for policy in policies.values() for rule in policy.get("egress", ())]
    assert [port["port"] for rule in egress for port in rule["ports"]] == [53, 53]


def test_a_batch_pod_may_ask_the_server() -> None:
    policy = only(render(("batch",)), "NetworkPolicy")["spec"]
    assert matches(policy["podSelector"]["matchLabels"], pod_labels(render(("batch",)), "Job"))
    to = [names(target, "podSelector") for rule in policy["egress"] for target in rule["to"] if len(target) == 1]
    assert [matches(selector, pod_labels(render(("overlays/cpu",)))) for selector in to] == [True]
    (container,) = pod_specs(render(("batch",)))[0]["containers"]
    service = only(render(("overlays/cpu",)), "Service")["metadata"]["name"]
    assert f"--endpoint=http://{service}" in container["args"]


def test_the_shards_are_as_many_as_the_completions() -> None:
    job = only(render(("batch",)), "Job")["spec"]
    variables = {each["name"]: each.get("value") for each in job["template"]["spec"]["containers"][0]["env"]}
    assert variables["SHARDS"] == str(job["completions"])
    assert job["parallelism"] <= job["completions"]


def test_keda_asks_for_metrics_that_the_service_has() -> None:
    scaled = only(render(("overlays/cpu", "gateway", "keda")), "ScaledObject")["spec"]
    queries = [trigger["metadata"]["query"] for trigger in scaled["triggers"] if trigger["type"] == "prometheus"]
    asked = {name for query in queries for name in re.findall(r"eyestate_\w+", query)}
    assert asked == {"eyestate_queue_crops", "eyestate_request_duration_seconds_bucket"}
    assert {name.removesuffix("_bucket") for name in asked} <= {family.name for family in REGISTRY.collect()}
    assert any(trigger["type"] == "cpu" for trigger in scaled["triggers"])
    assert scaled["minReplicaCount"] <= scaled["fallback"]["replicas"] <= scaled["maxReplicaCount"]


def test_prometheus_finds_the_service() -> None:
    monitor: dict[str, Any] = yaml.safe_load(MONITOR.read_text())["spec"]
    service = only(render(("overlays/cpu",)), "Service")
    (expression,) = monitor["selector"]["matchExpressions"]
    assert (expression["operator"], expression["values"]) == ("In", ["eyestate", "eyestate-canary"])
    for name in expression["values"]:
        assert only(render(CANARY), "Service", name)["metadata"]["labels"][expression["key"]] == name
    assert expression["key"] == monitor["jobLabel"]
    assert {endpoint["port"] for endpoint in monitor["endpoints"]} <= {
        port["name"] for port in service["spec"]["ports"]
    }
    assert set(monitor["podTargetLabels"]) <= pod_labels(render(("overlays/cpu",))).keys()


def names(source: Manifest, selector: str) -> dict[str, str]:
    """The labels that a peer of a network policy must have."""
    labels: dict[str, str] = source.get(selector, {}).get("matchLabels", {})
    return labels


def allows_gateway(manifest: Manifest) -> bool:
    """Whether an object lets the gateway's pods in."""
    return manifest["kind"] == "NetworkPolicy" and "gateway-system" in str(manifest["spec"].get("ingress"))


def mebibytes(quantity: str) -> int:
    """A quantity of memory, in MiB."""
    number, unit = re.fullmatch(r"(\d+)([MG]i)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * {"Mi": 1, "Gi": 1024}[unit]
