"""The canary's gate asks a real Prometheus that holds half an hour of a canary beside the stable version."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.k8s.manifests import CANARY, K8S, only, render
from tools.harness.servers import Probe, Server, running_server

GATE = K8S / "canary" / "gate.py"
MINUTES = 40

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: apt install prometheus)"
)


@dataclass(frozen=True)
class Rollout:
    """What a canary does each minute beside a stable version without a fault; each lives in a namespace of its own."""

    requests: int = 100
    failed: int = 0
    over_quota: int = 0
    slow: int = 0
    differing: int | None = 1  # of 1,000 crops in shadow mode; None: it is off
    model: str = "new"


ROLLOUTS = {
    "good": Rollout(),
    "few": Rollout(requests=10),
    "failing": Rollout(failed=1),
    "over-quota": Rollout(over_quota=50),
    "slow": Rollout(slow=10),
    "differing": Rollout(differing=20),
    "unseen": Rollout(differing=None),
    "same-model": Rollout(differing=None, model="old"),
}
REFUSED = {
    "few": "requests",
    "failing": "errors",
    "slow": "p95",
    "differing": "verdicts differ",
    "unseen": "shadow mode",
}


def metrics(namespace: str, rollout: Rollout) -> Iterator[tuple[str, str, int]]:
    """Counters as family, labels and increase a minute; a gauge as one that does not grow."""
    for job, sent, failed, slow, model in (
        ("eyestate", 1_000, 0, 0, "old"),
        ("eyestate-canary", rollout.requests, rollout.failed, rollout.slow, rollout.model),
    ):
        labels = f'namespace="{namespace}",job="{job}"'
        route = f'{labels},route="/v1/score"'
        yield "eyestate_requests_total", f'{route},status="200"', sent - failed
        if failed:
            yield "eyestate_requests_total", f'{route},status="500"', failed
        if job == "eyestate-canary" and rollout.over_quota:
            yield "eyestate_requests_total", f'{route},status="429"', rollout.over_quota
            yield "eyestate_requests_over_quota_total", route, rollout.over_quota
        for edge, count in (("0.1", sent - slow), ("0.25", sent - slow), ("1.0", sent), ("+Inf", sent)):
            yield "eyestate_request_duration_seconds_bucket", f'{route},le="{edge}"', count
        yield "eyestate_model_info", f'{labels},sha256="{model}"', 0
    if rollout.differing is not None:
        labels = f'namespace="{namespace}",job="eyestate"'
        yield "eyestate_shadow_crops_total", labels, 1_000
        yield "eyestate_shadow_disagreements_total", labels, rollout.differing


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("prometheus")
    now = int(time.time())
    lines = [
        f"{family}{{{labels}}} {1 + step * minute} {now - 60 * (MINUTES - minute)}"
        for namespace, rollout in ROLLOUTS.items()
        for family, labels, step in sorted(metrics(namespace, rollout))
        for minute in range(MINUTES + 1)
    ]
    (folder / "history").write_text("\n".join([*lines, "# EOF", ""]))
    create = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(folder / "history"), str(folder / "data")]
    subprocess.run(create, check=True, capture_output=True)
    (folder / "prometheus.yml").write_text("{}")
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command.append("--web.listen-address=127.0.0.1:{port}")
    with running_server(command, {}, Probe("/-/ready"), folder / "log") as server:
        yield server


def ask(url: str, *options: str) -> tuple[int, str]:
    """Exit code and output of the gate."""
    command = [sys.executable, str(GATE), f"--prometheus={url}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("rollout", ["good", "same-model"])
def test_a_canary_as_good_as_the_stable_version_is_promoted(prometheus: Server, rollout: str) -> None:
    code, output = ask(prometheus.url, f"--namespace={rollout}")
    assert code == 0, output
    assert output.endswith("\npromote\n")
    assert " NO " not in output


@pytest.mark.parametrize(("rollout", "criterion"), REFUSED.items())
def test_any_other_is_not_and_the_reason_is_named(prometheus: Server, rollout: str, criterion: str) -> None:
    code, output = ask(prometheus.url, f"--namespace={rollout}")
    assert code == 1, output
    reasons = [line for line in output.splitlines() if line.startswith(" NO ")]
    assert any(criterion in reason for reason in reasons)
    assert all(criterion in reason or rollout in ("slow", "unseen") for reason in reasons), output


def test_what_is_not_there_is_not_promoted(prometheus: Server) -> None:
    assert ask(prometheus.url, "--namespace=nowhere")[0] == 1
    code, output = ask("http://127.0.0.1:9")
    assert (code, "does not answer" in output) == (1, True)


def test_the_job_runs_it_with_options_it_has() -> None:
    job = only(render(CANARY), "Job")["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert job["suspend"] is True
    assert job["backoffLimit"] == 0
    code, output = ask("http://127.0.0.1:9", *container["command"][3:])
    assert (code, "does not answer" in output) == (1, True)
    configuration = only(render(CANARY), "ConfigMap", job["template"]["spec"]["volumes"][0]["configMap"]["name"])
    assert configuration["data"]["gate.py"] == GATE.read_text()
