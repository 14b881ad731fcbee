from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import REGISTRY

from eyestate.bundle import Card, Manifest, load_bundle
from eyestate.drift import EDGES, LEAST, reference
from eyestate.images import decode
from eyestate.server import metric_files, metrics
from eyestate.server.metrics import SAMPLE, BulkHistogram, Monitor
from tests.bundles import write_bundle

DARK, LIGHT = (np.full((24, 24), grey, np.uint8) for grey in (50, 150))


def value(sample: str, /, **labels: str) -> float:
    return REGISTRY.get_sample_value(sample, labels) or 0


def changes(monitor: Monitor, act: Callable[[], object], sample: str, /, **labels: str) -> float:
    """By how much a sample changes when something happens and is published."""
    monitor.publish()
    before = value(sample, **labels)
    act()
    monitor.publish()
    return value(sample, **labels) - before


def watching(manifest: Card, deferred: Callable[[], int] = lambda: 3) -> Monitor:
    monitor = Monitor()
    monitor.watch(manifest, "cpu-fp32", lambda: 17, deferred)
    monitor.ready()
    return monitor


@pytest.fixture(scope="module", autouse=True)
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Of a model that calls scores up to 0.25 closed and from 0.75 open, made for crops of 24 pixels."""
    without = load_bundle(write_bundle(tmp_path_factory.mktemp("models"))).manifest
    random = np.random.default_rng(0)
    usual = reference(
        "made for a test",
        {
            "score": random.random(2_000),
            "width": np.full(2_000, 24.0),
            "brightness": random.normal(120, 30, 2_000),
            "sharpness": random.lognormal(-1, 0.7, 2_000),
        },
        without.thresholds,
    )
    return without.model_copy(update={"reference": usual})


@pytest.fixture(scope="module", autouse=True)
def monitor(manifest: Manifest) -> Monitor:
    return watching(manifest)


class TestBulkHistogram:
    @given(st.lists(st.sampled_from([0, 0.1, 0.25, 0.5, 0.75, 1, 7]) | st.floats(-1, 2)))
    def test_counts_like_one_that_observes_one_by_one(self, values: list[float]) -> None:
        registry = CollectorRegistry()
        usual = Histogram("usual", "", buckets=(0.25, 0.5, 1), registry=registry)
        bulk = BulkHistogram("bulk", "", buckets=(0.25, 0.5, 1), registry=registry)
        for number in values:
            usual.observe(number)
        bulk.note(values[::2])
        bulk.note_array(np.array(values[1::2]))
        bulk.publish()
        for suffix, labels in [("_bucket", {"le": le}) for le in ("0.25", "0.5", "1.0", "+Inf")] + [("_count", {})]:
            assert registry.get_sample_value(f"bulk{suffix}", labels) == registry.get_sample_value(
                f"usual{suffix}", labels
            )
        assert registry.get_sample_value("bulk_sum") == pytest.approx(registry.get_sample_value("usual_sum"))

    def test_publishes_each_value_once(self) -> None:
        histogram = BulkHistogram("once", "", registry=CollectorRegistry())
        histogram.note([1, 2])
        histogram.note_array(np.array([3.0]))
        assert histogram.publish().tolist() == [1, 2, 3]
        assert histogram.publish().tolist() == []


def test_model_is_told(manifest: Manifest) -> None:
    labels = {"name": manifest.name, "version": manifest.version, "sha256": manifest.sha256, "device": "cpu-fp32"}
    assert value("eyestate_model_info", **labels) == 1
    assert value("eyestate_workers") == 1


def test_a_request(monitor: Monitor) -> None:
    labels = {"route": "/v1/score", "status": "200"}
    name = "eyestate_requests_total"
    assert changes(monitor, lambda: metrics.request_done("/v1/score", 200, 0.02, 0.003), name, **labels) == 1
    bucket = {"route": "/v1/score", "le": "0.005"}
    name = "eyestate_request_duration_seconds_bucket"
    assert changes(monitor, lambda: metrics.request_done("/v1/score", 200, 0.02, 0.003), name, **bucket) == 1
    assert changes(monitor, lambda: metrics.request_done("/v1/score", 200, 0.02, 0.006), name, **bucket) == 0


@pytest.mark.parametrize(("received", "times"), [(0.25, 1), (0.0, 0)])
def test_the_arrival_of_a_body_is_a_phase(monitor: Monitor, received: float, times: int) -> None:
    def act() -> None:
        metrics.request_done("/v1/score", 200, received, 0.003)

    assert changes(monitor, act, "eyestate_phase_duration_seconds_count", phase="receive") == times
    assert changes(monitor, act, "eyestate_phase_duration_seconds_sum", phase="receive") == pytest.approx(received)


@pytest.mark.parametrize(
    ("name", "labels", "change"),
    [
        ("eyestate_phase_duration_seconds_count", {"phase": "queue"}, 2),
        ("eyestate_phase_duration_seconds_sum", {"phase": "queue"}, 0.75),
        ("eyestate_phase_duration_seconds_count", {"phase": "inference"}, 1),
        ("eyestate_phase_duration_seconds_sum", {"phase": "inference"}, 0.125),
        ("eyestate_batch_size_crops_sum", {}, 5),
        ("eyestate_batch_size_crops_count", {}, 1),
    ],
)
def test_a_batch(name: str, labels: dict[str, str], change: float, monitor: Monitor) -> None:
    assert changes(monitor, lambda: metrics.batch(5, [0.25, 0.5], 0.125), name, **labels) == change


@pytest.mark.parametrize(("state", "crops"), [("closed", 2), ("uncertain", 2), ("open", 3)])
def test_states_are_those_of_the_thresholds(state: str, crops: int, monitor: Monitor) -> None:
    scores = np.array([0, 0.25, 0.2500001, 0.7499999, 0.75, 0.9, 1], np.float32)
    assert changes(monitor, lambda: metrics.scored(scores), "eyestate_crops_total", state=state) == crops


@pytest.mark.parametrize("call", [metrics.failed, metrics.rejected])
def test_codes(call: Callable[[str], None], monitor: Monitor) -> None:
    name, label = {
        metrics.failed: ("eyestate_crops_failed_total", "code"),
        metrics.rejected: ("eyestate_rejected_total", "reason"),
    }[call]
    assert changes(monitor, lambda: call("overloaded"), name, **{label: "overloaded"}) == 1


@pytest.mark.parametrize("crops", [[DARK, LIGHT], np.stack([DARK, LIGHT])], ids=["one by one", "in one array"])
def test_decoded_crops(crops: list[np.ndarray[tuple[int, int], np.dtype[np.uint8]]], monitor: Monitor) -> None:
    def decode() -> None:
        monitor.decoded(0.25, monitor.look(crops))

    assert changes(monitor, decode, "eyestate_phase_duration_seconds_sum", phase="decode") == 0.25
    assert changes(monitor, decode, "eyestate_crop_width_pixels_count", source="crops") == 2
    assert changes(monitor, decode, "eyestate_crop_width_pixels_sum", source="crops") == 48
    assert changes(monitor, decode, "eyestate_crop_brightness_sum", source="crops") == 200
    assert changes(monitor, decode, "eyestate_crop_sharpness_count", source="crops") == 2


def test_no_crop_could_be_decoded(monitor: Monitor) -> None:
    assert (
        changes(
            monitor,
            lambda: monitor.decoded(0.1, monitor.look([])),
            "eyestate_phase_duration_seconds_count",
            phase="decode",
        )
        == 1
    )


def test_pixels_of_many_crops_are_sampled_evenly(monitor: Monitor) -> None:
    crops = np.concatenate([np.full((5_000, 24, 24), 50, np.uint8), np.full((5_000, 24, 24), 150, np.uint8)])

    def decode() -> None:
        monitor.decoded(0.1, monitor.look(crops))
        monitor.decoded(0.1, monitor.look([DARK]))

    monitor.publish()
    before = (
        value("eyestate_crop_brightness_sum", source="crops"),
        value("eyestate_crop_brightness_count", source="crops"),
    )
    assert changes(monitor, decode, "eyestate_crop_width_pixels_count", source="crops") == 10_001
    measured = value("eyestate_crop_brightness_count", source="crops") - before[1]
    assert SAMPLE / 2 < measured <= SAMPLE
    assert (value("eyestate_crop_brightness_sum", source="crops") - before[0]) / measured == pytest.approx(100, abs=5)


def test_the_queue_is_asked(monitor: Monitor) -> None:
    monitor.publish()
    assert value("eyestate_queue_crops") == 17
    assert value("eyestate_resident_memory_bytes") > 2**20


@pytest.mark.parametrize("name", ["eyestate_crops_deferred_total", "eyestate_crops_escalated_total"])
def test_deferred_crops_are_counted_once(manifest: Manifest, name: str) -> None:
    totals = iter([2, 2, 7])
    monitor = watching(manifest, lambda: next(totals))
    before = value(name)
    for counted in (2, 2, 7):
        monitor.publish()
        assert value(name) == before + counted


def test_drift_is_told_once_enough_crops_were_seen(manifest: Manifest) -> None:
    monitor = watching(manifest)
    scores = np.random.default_rng(1).random(LEAST, np.float32)
    before = value("eyestate_uncertain_share", source="crops", crops="recent")
    metrics.scored(scores[1:])
    monitor.publish()
    assert value("eyestate_uncertain_share", source="crops", crops="recent") == before
    metrics.scored(scores)
    monitor.decoded(0.1, monitor.look(np.zeros((LEAST, 40, 40), np.uint8)))
    monitor.publish()
    assert 0 < value("eyestate_drift_psi", source="crops", feature="score") < 0.1
    assert value("eyestate_drift_psi", source="crops", feature="width") > 0.2
    assert value("eyestate_uncertain_share", source="crops", crops="recent") == pytest.approx(0.5, abs=0.1)
    assert manifest.reference is not None
    assert value("eyestate_uncertain_share", source="crops", crops="reference") == manifest.reference.uncertain


def test_a_model_without_reference_has_no_drift(manifest: Manifest) -> None:
    monitor = watching(manifest.model_copy(update={"reference": None}))
    before = value("eyestate_drift_psi", source="crops", feature="score")
    metrics.scored(np.zeros(LEAST, np.float32))
    monitor.publish()
    assert value("eyestate_drift_psi", source="crops", feature="score") == before


@pytest.mark.parametrize(
    ("feature", "histogram"),
    [
        ("score", "eyestate_crop_score"),
        ("width", "eyestate_crop_width_pixels"),
        ("brightness", "eyestate_crop_brightness"),
        ("sharpness", "eyestate_crop_sharpness"),
    ],
)
def test_reference_has_the_histograms_buckets(feature: str, histogram: str, monitor: Monitor) -> None:
    """Else a query could not subtract one from the other."""
    families = {f.name: f for f in text_string_to_metric_families(asyncio.run(monitor.exposition()).decode())}
    shares = {
        s.labels["le"]: s.value
        for s in families["eyestate_reference_cumulative_share"].samples
        if s.labels["feature"] == feature
    }
    buckets = {s.labels["le"] for s in families[histogram].samples if s.name.endswith("_bucket")}
    assert set(shares) == buckets - {"+Inf"}
    assert len(shares) == len(EDGES[feature])  # type: ignore[index]
    assert sorted(shares.values()) == list(shares.values())


def test_many_readers_are_told_from_one_rendering(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []

    def render() -> bytes:
        threads.append(threading.current_thread())
        return b"%d" % len(threads)

    async def read() -> None:
        monitor = watching(manifest)
        impatient = asyncio.create_task(monitor.exposition())
        await asyncio.sleep(0)
        impatient.cancel()  # and the others wait on
        assert await asyncio.gather(*[monitor.exposition() for _ in range(20)]) == [b"1"] * 20
        await asyncio.sleep(0.06)
        assert await monitor.exposition() == b"2"

    monkeypatch.setattr(metrics, "_render", render)
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 0.05)
    asyncio.run(read())
    assert threading.main_thread() not in threads


def test_costs_little(monitor: Monitor) -> None:
    """All metrics of a request with one crop cost less than to decode the crop; those of one in bulk a 50th."""
    scores, many = np.array([0.5], np.float32), np.zeros((16_384, 24, 24), np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)).save(file, "JPEG")

    def decoding() -> None:
        for _ in range(1_000):
            decode(file.getvalue())

    def single() -> None:
        for _ in range(1_000):
            monitor.decoded(0.001, monitor.look([DARK]))
            metrics.batch(1, [0.001], 0.001)
            metrics.scored(scores)
            metrics.request_done("/v1/score", 200, 0.02, 0.003)
        monitor.publish()

    def bulk() -> None:
        monitor.decoded(0.1, monitor.look(many))
        metrics.batch(len(many), [0.1], 0.1)
        metrics.scored(np.zeros(len(many), np.float32))
        metrics.request_done("/v1/score/batch", 200, 0.1, 0.3)
        monitor.publish()

    crop = seconds(decoding) / 1_000
    assert seconds(single) / 1_000 < crop
    assert seconds(bulk) / len(many) < crop / 50


def seconds(act: Callable[[], None]) -> float:
    """The processor time of the quickest of ten tries."""

    def once() -> float:
        started = time.process_time()
        act()
        return time.process_time() - started

    return min(once() for _ in range(10))


def test_of_a_model_that_is_served_no_longer_nothing_is_told(manifest: Manifest) -> None:
    monitor = watching(manifest)
    metrics.scored(np.zeros(LEAST, np.float32))
    monitor.publish()
    following = manifest.model_copy(update={"version": "2.0.0", "reference": None})
    monitor.watch(following, "cpu-fp32", lambda: 17, lambda: 3)
    told = asyncio.run(monitor.exposition()).decode()
    assert re.findall(r'^eyestate_model_info{.*version="(.*?)".* 1.0$', told, re.MULTILINE) == ["2.0.0"]
    assert "eyestate_drift_psi{" not in told
    assert "eyestate_reference_cumulative_share{" not in told
    monitor.watch(manifest, "cpu-fp32", lambda: 17, lambda: 3)
    assert value("eyestate_uncertain_share", source="crops", crops="reference") == manifest.reference.uncertain  # type: ignore[union-attr]


class TestSeveralWorkers:
    """Each run is a process in the place of a worker; one that has ended is a worker that died."""

    def run(self, folder: Path, bundle: Path, script: str) -> str:
        prologue = (
            "import asyncio, os, pathlib, numpy as np\n"
            "from eyestate.server import metrics\n"
            "from eyestate.bundle import load_bundle\n"
            f"metrics.count_in_files(pathlib.Path({str(folder)!r}), 1)\n"
            "monitor = metrics.Monitor()\n"
            f"monitor.watch(load_bundle({str(bundle)!r}).manifest, 'cpu-fp32', lambda: 5, lambda: 0)\n"
            "monitor.ready()\n"
        )
        command = [sys.executable, "-c", prologue + script]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def test_who_takes_a_place_goes_on_counting_there(self, tmp_path: Path) -> None:
        bundle = write_bundle(tmp_path / "models")
        folder = metric_files.claim(tmp_path / "home", 2)
        files = {file.name: file.stat().st_blocks for file in folder.iterdir()}
        work = (
            "metrics.request_done('/v1/score', 200, 0.02, 0.003)\n"
            "metrics.rejected('overloaded')\n"
            "metrics.failed('corrupt_image')\n"
            "metrics.scored(np.array([0.9], np.float32))\n"
            "monitor.decoded(0.001, monitor.look(np.zeros((2, 24, 24), np.uint8)))\n"
        )
        show = "print(asyncio.run(monitor.exposition()).decode())\n"
        with pytest.raises(subprocess.CalledProcessError):
            self.run(folder, bundle, work + "monitor.publish()\nos._exit(1)\n")
        metric_files.forget_gauges(folder, 1)
        text = self.run(folder, bundle, work + show)
        samples = {
            (s.name, *sorted(s.labels.values())): s.value
            for family in text_string_to_metric_families(text)
            for s in family.samples
        }
        assert samples["eyestate_requests_total", "/v1/score", "200"] == 2
        assert samples["eyestate_request_duration_seconds_count", "/v1/score"] == 2
        assert samples["eyestate_rejected_total", "overloaded"] == 2
        assert samples["eyestate_crops_failed_total", "corrupt_image"] == 2
        assert samples["eyestate_crops_total", "open"] == 2
        assert samples["eyestate_crop_width_pixels_sum", "crops"] == 96
        assert samples["eyestate_worker_starts_total",] == 2
        assert samples["eyestate_workers",] == 1
        assert samples["eyestate_queue_crops",] == 5
        assert {file.name: file.stat().st_blocks for file in folder.iterdir()} == files, "nothing is left behind"

    def test_the_state_of_a_dead_worker_is_not_shown(self, tmp_path: Path) -> None:
        folder = metric_files.claim(tmp_path, 1)
        script = "from eyestate.server import metric_files\n"
        script += f"metric_files.forget_gauges(pathlib.Path({str(folder)!r}), 1)\nprint(metrics._render().decode())\n"
        text = self.run(folder, write_bundle(tmp_path / "models"), script)
        assert "eyestate_worker_starts_total 1.0" in text
        assert "eyestate_workers 1.0" not in text

    def test_all_labels_find_room_in_what_is_reserved(self, tmp_path: Path) -> None:
        """Where the files had to grow, a full disk would be a bus error."""
        folder = metric_files.claim(tmp_path, 1)
        script = (
            "from eyestate import errors\n"
            "from eyestate.server import app\n"
            "routes = [route.path for route in app._API.routes] + [f'/v2/models/{{name}}/{i}' for i in range(20)]\n"
            "for route in routes:\n"
            "    for status in (200, 400, 401, 404, 405, 408, 411, 413, 415, 421, 422, 429, 499, 500, 503, 504):\n"
            "        metrics.request_done(route, status, 0.1, 0.1)\n"
            "for code in range(40):\n"
            "    metrics.rejected(f'a_code_that_is_rather_long_{code}')\n"
            "    metrics.over_quota(f'a_route_that_is_rather_long_{code}')\n"
            "    metrics.failed(f'a_code_that_is_rather_long_{code}')\n"
            "monitor.publish()\n"
        )
        self.run(folder, write_bundle(tmp_path / "models"), script)
        assert {file.stat().st_size for file in folder.iterdir()} == {metric_files.FILE_BYTES}
