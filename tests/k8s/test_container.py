"""The containers of the rendered manifests, run here with exactly their commands, environments and probes."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from tests.eyestate.batch.crops import png
from tests.k8s.kubelet import Container, Image, running
from tests.k8s.manifests import Manifest, only, render
from tests.k8s.tools import PROJECT

KEY = "a-key-for-the-test"
SECRETS = {"eyestate-api-keys/keys": f"# one a line\n{KEY}\n", "eyestate-batch/api-key": KEY}
OPEN = (PROJECT / "examples" / "open.jpg").read_bytes()
CROPS = 96


def server(folder: Path, secrets: dict[str, str]) -> Container:
    objects = render(("overlays/cpu",))
    return Container(objects, only(objects, "Deployment")["spec"]["template"]["spec"], folder, secrets)


def job() -> Manifest:
    spec: Manifest = only(render(("batch",)), "Job")["spec"]
    return spec


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """The server of the CPU overlay, started."""
    folder = tmp_path_factory.mktemp("server")
    container = server(folder, SECRETS)
    with running(container, folder / "log"):
        yield container


def score(container: Container, key: str = KEY) -> int:
    """The status of the answer to a crop."""
    url, headers = f"http://127.0.0.1:{container.port}/v1/score", {"Authorization": f"Bearer {key}"}
    return httpx.post(url, content=OPEN, headers=headers, timeout=30).status_code


def becomes(expected: int, container: Container, key: str) -> bool:
    """Whether a key is answered with a status within half a minute."""
    deadline = time.monotonic() + 30
    while score(container, key) != expected:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_the_image_starts_the_service() -> None:
    image = Image.of("cpu")
    assert image.entrypoint == ("eyestate", "serve")
    assert image.environment["BENTOML_PORT"] == "3000"


def test_the_probes_succeed_and_crops_are_scored_for_who_has_a_key(deployed: Container) -> None:
    assert deployed.probe("readinessProbe")
    assert deployed.probe("livenessProbe")
    assert score(deployed) == 200
    assert score(deployed, "another") == 401


def test_keys_are_rotated_without_a_restart(deployed: Container) -> None:
    deployed.change_secret("eyestate-api-keys/keys", f"{KEY}\nthe-next")
    assert becomes(200, deployed, "the-next")
    assert score(deployed) == 200
    deployed.change_secret("eyestate-api-keys/keys", "the-next")
    assert becomes(401, deployed, KEY)
    deployed.change_secret("eyestate-api-keys/keys", KEY)
    assert becomes(200, deployed, KEY)


def test_without_its_secret_the_service_does_not_start_and_says_why(tmp_path: Path) -> None:
    container = server(tmp_path, {})
    with container.start(tmp_path / "log") as process:
        assert process.wait(60) != 0
    assert "EYESTATE_API_KEYS_FILE" in (tmp_path / "log").read_text()


def test_the_end_takes_less_than_the_grace_period(tmp_path: Path) -> None:
    container = server(tmp_path, SECRETS)
    drain = float(container.environment["EYESTATE_DRAIN"])
    with running(container, tmp_path / "log") as process:
        began = time.monotonic()
        pause = container.spec["lifecycle"]["preStop"]["sleep"]["seconds"]
        while time.monotonic() < began + pause:  # the endpoint is taken out of the load balancers meanwhile
            assert container.probe("readinessProbe")
            assert score(container) == 200
        process.send_signal(signal.SIGTERM)
        told = time.monotonic()
        while container.probe("readinessProbe"):
            assert time.monotonic() < told + drain, "readiness does not tell of the drain"
        assert score(container) == 200  # still taken
        left = container.pod["terminationGracePeriodSeconds"] - (time.monotonic() - began)
        assert process.wait(left) == 0
        assert time.monotonic() - told >= drain


def test_the_batch_job_scores_every_crop_once(deployed: Container, tmp_path: Path) -> None:
    for row in range(CROPS):
        crop = volume(tmp_path, "/crops") / f"{row:04d}.png"
        crop.write_bytes(png(row))
    shards = job()["completions"]
    with ThreadPoolExecutor(job()["parallelism"]) as pool:
        codes = list(pool.map(lambda index: run_shard(deployed, tmp_path, index), range(shards)))
    assert codes == [0] * shards
    scores = volume(tmp_path, "/scores")
    manifests = [json.loads(path.read_text()) for path in scores.glob("_manifest-*.json")]
    assert [manifest["complete"] for manifest in manifests] == [True] * shards
    table = pq.read_table(scores)
    assert table["row"].to_pylist() == list(range(CROPS))
    assert None not in table["score"].to_pylist()


def test_the_policy_of_the_job_knows_the_exit_codes_of_the_command(deployed: Container, tmp_path: Path) -> None:
    (volume(tmp_path, "/crops") / "damaged.png").write_bytes(b"no image")
    assert action(run_shard(deployed, tmp_path, 0)) == "FailIndex"  # scored again, it would fail again
    assert action(run_shard(deployed, tmp_path, job()["completions"])) == "FailJob"  # no such shard
    (volume(tmp_path, "/crops") / "another.png").write_bytes(b"no image either")
    assert action(run_shard(deployed, tmp_path, 0)) is None  # the input is another: counted, and tried again


def action(code: int) -> str | None:
    """What becomes of a shard that ends with an exit code; None: it is tried again."""
    assert code
    for rule in job()["podFailurePolicy"]["rules"]:
        if code in rule.get("onExitCodes", {}).get("values", ()):
            return str(rule["action"])
    return None


def volume(folder: Path, mount: str) -> Path:
    """Where a volume of the job is on this machine."""
    return batch(folder).folder(mount)


def batch(folder: Path) -> Container:
    """The container of the job."""
    return Container(render(("batch",)), job()["template"]["spec"], folder, SECRETS)


def run_shard(deployed: Container, folder: Path, index: int) -> int:
    """Run the job's command for one index, with small parts, against the server; its exit code."""
    container = batch(folder)
    container.environment["JOB_COMPLETION_INDEX"] = str(index)  # set by the controller of indexed jobs
    service = only(render(("overlays/cpu",)), "Service")
    url = f"http://{service['metadata']['name']}"
    words = [word.replace(url, f"http://127.0.0.1:{deployed.port}") for word in container.command]
    result = subprocess.run(
        [*words, "--rows-per-part=4"], env=container.environment, capture_output=True, check=False, timeout=120
    )
    return result.returncode
