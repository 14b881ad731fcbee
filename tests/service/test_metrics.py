"""``/metrics`` of a running service with two workers, against docs/metrics.md."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from PIL import Image
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from eyestate.arrays import Pixels
from eyestate.bundle import load_bundle
from eyestate.cli import main
from eyestate.drift import LEAST
from eyestate.server.metrics import FRESH_SECONDS, PUBLISH_SECONDS
from tests.bundles import write_bundle
from tests.eyestate.server.test_metric_files import CLAIM
from tests.service.conftest import PROJECT, started_service, wait_until_ready

DOCUMENT = (PROJECT / "docs" / "metrics.md").read_text()
OPEN = np.full((24, 24), 220, np.uint8)
CLOSED = np.full((24, 24), 30, np.uint8)
WIDTH_PSI = "eyestate_drift_psi{feature=width,source=crops}"


class Documented(NamedTuple):
    kind: str
    labels: frozenset[str]


def encoded(crop: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "PNG")
    return file.getvalue()


def packed(crops: Pixels) -> bytes:
    file = io.BytesIO()
    np.save(file, crops)
    return file.getvalue()


def documented() -> dict[str, Documented]:
    """The table of the metrics: type and labels by name."""
    rows = re.findall(r"^\| `(eyestate_\w+)` \| (\w+) \| (.*?) \|", DOCUMENT, re.MULTILINE)
    return {name: Documented(kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def queries() -> list[str]:
    """The PromQL of the table of questions and of the blocks."""
    table = re.findall(r"^\| [A-Za-z][^|`]* \| `(.*)` \|$", DOCUMENT, re.MULTILINE)
    return [*table, *re.findall(r"```promql\n(.*?)```", DOCUMENT, re.DOTALL)]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[psutil.Process, httpx.Client]]:
    """A service with two workers, and a client that opens a connection per request, so that it meets both."""
    folder = tmp_path_factory.mktemp("metrics")
    bundle = write_bundle(folder)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["reference"] = load_bundle("final_best").manifest.model_dump(mode="json")["reference"]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    settings = {"EYESTATE_MODEL": str(bundle), "EYESTATE_WORKERS": "2"}
    with started_service(folder / "home", folder / "log", **settings) as (process, url):
        wait_until_ready(process, url, folder / "log")
        with httpx.Client(base_url=url, timeout=60, limits=httpx.Limits(max_keepalive_connections=0)) as client:
            until(lambda: samples(client).get("eyestate_workers{}") == 2, "both workers are ready")
            yield psutil.Process(process.pid), client
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "Traceback" not in (folder / "log").read_text()


def families(client: httpx.Client) -> list[Metric]:
    return list(text_string_to_metric_families(client.get("/metrics").raise_for_status().text))


def samples(client: httpx.Client) -> dict[str, float]:
    """Every sample, under its name and labels as PromQL writes them."""
    return {
        f"{s.name}{{{','.join(f'{k}={v}' for k, v in sorted(s.labels.items()))}}}": s.value
        for family in families(client)
        for s in family.samples
    }


def until(reached: Callable[[], bool], what: str, seconds: float = 40) -> None:
    """Wait for what another worker publishes in a second, and for a new one to start."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.2)


def requests_of_every_kind(client: httpx.Client) -> None:
    for _ in range(4):
        client.post("/v1/score", content=encoded(OPEN)).raise_for_status()
    assert client.post("/v1/score", content=b"no image").status_code == 415
    files = [("images", image) for image in (encoded(CLOSED), encoded(OPEN), b"no image")]
    client.post("/v1/score/batch", files=files).raise_for_status()
    npy = {"content-type": "application/x-npy", "accept": "application/x-npy"}
    client.post("/v1/score/batch", content=packed(np.stack([CLOSED] * LEAST)), headers=npy).raise_for_status()
    assert client.get("/v1/nothing").status_code == 404


def test_the_table_is_what_is_served(workers: tuple[psutil.Process, httpx.Client]) -> None:
    _, client = workers
    requests_of_every_kind(client)
    until(lambda: "eyestate_drift_psi{feature=score,source=crops}" in samples(client), "drift is told", 5)
    time.sleep(FRESH_SECONDS)  # the other worker may have told less just before
    served = {
        f"{family.name}_total" if family.type == "counter" else family.name: Documented(
            family.type, frozenset(label for s in family.samples for label in s.labels) - {"le"}
        )
        for family in families(client)
    }
    reference = served.pop("eyestate_reference_cumulative_share")
    table = documented()
    assert table.pop("eyestate_reference_cumulative_share") == Documented("gauge", reference.labels | {"le"})
    assert served == table


def test_all_workers_count(workers: tuple[psutil.Process, httpx.Client]) -> None:
    _, client = workers
    time.sleep(2 * PUBLISH_SECONDS)
    before = samples(client)
    requests_of_every_kind(client)
    expected = {
        "eyestate_requests_total{route=/v1/score,status=200}": 4,
        "eyestate_requests_total{route=/v1/score,status=415}": 1,
        "eyestate_requests_total{route=/v1/score/batch,status=200}": 2,
        "eyestate_requests_total{route=other,status=404}": 1,
        "eyestate_request_duration_seconds_count{route=/v1/score}": 5,
        "eyestate_rejected_total{reason=unsupported_image}": 1,
        "eyestate_rejected_total{reason=not_found}": 1,
        "eyestate_crops_total{state=open}": 5,
        "eyestate_crops_total{state=closed}": LEAST + 1,
        "eyestate_crop_score_count{source=crops}": LEAST + 6,
        "eyestate_crop_width_pixels_sum{source=crops}": (LEAST + 6) * 24,
        "eyestate_batch_size_crops_sum{}": LEAST + 6,
        "eyestate_worker_starts_total{}": 0,
    }

    def changes() -> dict[str, float]:
        after = samples(client)
        return {key: after.get(key, 0) - before.get(key, 0) for key in expected}

    until(lambda: changes() == expected, "the second worker publishes", 5)
    assert samples(client)["eyestate_queue_crops{}"] == 0


def test_readers_without_pause_are_told_the_same_and_all_of_it(workers: tuple[psutil.Process, httpx.Client]) -> None:
    _, client = workers
    started = time.monotonic()
    told = {client.get("/metrics").raise_for_status().text for _ in range(40)}
    # Of two workers; what the first one told may have been on the point of being renewed.
    assert len(told) <= 2 * ((time.monotonic() - started) // FRESH_SECONDS + 2)
    assert all("eyestate_crops_total" in text for text in told)


def test_crops_are_compared_with_those_of_the_user(
    workers: tuple[psutil.Process, httpx.Client], tmp_path: Path
) -> None:
    """The reference is made from the running service; another that is given it finds no drift in the same crops."""
    process, client = workers
    crops = np.random.default_rng(0).integers(0, 256, (LEAST, 40, 40), np.uint8)
    npy = {"content-type": "application/x-npy", "accept": "application/x-npy"}
    for sent in (crops, crops[:64, :24, :24]):
        client.post("/v1/score/batch", content=packed(sent), headers=npy).raise_for_status()
    for _ in range(9):  # whose brightness is measured, of at most 64 a second and worker
        client.post("/v1/score/batch", content=packed(crops[:64]), headers=npy).raise_for_status()
        time.sleep(PUBLISH_SECONDS)
    file = tmp_path / "drift.json"
    made = CliRunner().invoke(main, ["drift-reference", str(client.base_url), "--output", str(file)])
    assert made.exit_code == 0, made.output
    settings = {"EYESTATE_MODEL": process.environ()["EYESTATE_MODEL"], "EYESTATE_DRIFT_REFERENCE": str(file)}
    with started_service(tmp_path / "home", tmp_path / "log", **settings) as (own, url):
        wait_until_ready(own, url, tmp_path / "log")
        with httpx.Client(base_url=url, timeout=60) as other:
            served = json.loads(file.read_text())["sources"]["crops"]["features"]["width"]
            widths = np.repeat([24, 40], (np.array(served["shares"])[[2, 4]] * 2 * LEAST).astype(int))
            for width in (24, 40):
                part = crops[: int((widths == width).sum()), :width, :width]
                other.post("/v1/score/batch", content=packed(part), headers=npy).raise_for_status()
            until(lambda: WIDTH_PSI in samples(other), "drift is told")
            assert samples(other)[WIDTH_PSI] < 0.1
    assert samples(client)[WIDTH_PSI] > 0.2, "against the manifest's crops"


def test_a_killed_worker_keeps_its_counts(workers: tuple[psutil.Process, httpx.Client]) -> None:
    process, client = workers
    time.sleep(2 * PUBLISH_SECONDS)
    before = samples(client)
    victim = next(child for child in process.children() if "_bentoml_impl" in " ".join(child.cmdline()))
    victim.kill()
    until(lambda: samples(client)["eyestate_worker_starts_total{}"] == 3, "the worker is started again")
    time.sleep(FRESH_SECONDS)
    after = samples(client)
    assert after["eyestate_workers{}"] == 2
    grown = [key for key in before if "_total" in key or "_count" in key or "_sum" in key or "_bucket" in key]
    assert all(after[key] >= before[key] for key in grown)


def test_a_second_service_on_the_same_home_takes_nothing_away(
    workers: tuple[psutil.Process, httpx.Client], tmp_path: Path
) -> None:
    process, client = workers
    home = Path(process.environ()["BENTOML_HOME"])
    requests_of_every_kind(client)
    time.sleep(2 * PUBLISH_SECONDS)
    before = samples(client)
    with started_service(home, tmp_path / "log", EYESTATE_MODEL=str(write_bundle(tmp_path))) as (second, url):
        wait_until_ready(second, url, tmp_path / "log")
        with httpx.Client(base_url=url) as other:
            other.post("/v1/score", content=encoded(OPEN)).raise_for_status()
            until(lambda: samples(other).get("eyestate_crops_total{state=open}") == 1, "its own crop alone")
        time.sleep(FRESH_SECONDS)
        after = samples(client)
        assert after["eyestate_workers{}"] == 2
        counted = [key for key in before if "_total" in key and "route=/metrics" not in key]
        assert {key: after[key] for key in counted} == {key: before[key] for key in counted}
        assert len(list(home.glob("prometheus_multiproc_dir*"))) == 2
    second.wait(10)

    def only_the_first_and_the_third_are_left() -> bool:
        third = subprocess.check_output([sys.executable, "-c", CLAIM, home], text=True)
        left = {folder.name for folder in home.glob("prometheus_multiproc_dir*")}
        return len(left) == 2 and third.strip() in left

    until(only_the_first_and_the_third_are_left, "the workers of the second, which was killed, have ended")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus' promtool is not installed")
def test_queries_are_promql(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    assert len(rules) > 10
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "documented", "rules": rules}]}))
    checked = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_queries_ask_for_metrics_that_exist() -> None:
    asked = {name for query in queries() for name in re.findall(r"eyestate_\w+", query)}
    parts = {f"{name}{suffix}" for name in documented() for suffix in ("", "_bucket", "_sum", "_count")}
    assert asked <= parts
