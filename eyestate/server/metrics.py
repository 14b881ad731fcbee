"""Every Prometheus metric of the service, in one place; ``docs/metrics.md`` explains them.

Requests, rejections and failures are counted immediately. Values that have a distribution are noted in plain lists,
which costs next to nothing, and put into Prometheus in bulk by ``Monitor.publish``: once a second, and when this
process is scraped.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
    multiprocess,
    values,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import REGISTRY
from prometheus_client.utils import floatToGoString

from eyestate import quality
from eyestate.arrays import Pixels, Scores
from eyestate.bundle import Card, Feature, Reference
from eyestate.drift import EDGES, SOURCES, Drift, Source
from eyestate.drift_reference import METRICS, DriftReference

log = logging.getLogger("eyestate.server.metrics")

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
PUBLISH_SECONDS: Final = 1.0
FRESH_SECONDS: Final = 0.5  # rendering takes tens of milliseconds
SAMPLE: Final = 64  # crops per worker and PUBLISH_SECONDS whose pixels are measured

_LATENCIES: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class BulkCounter(Counter):
    """A counter that keeps what it counts until ``publish``."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._noted = 0

    def note(self) -> None:
        """Count one, at the next ``publish``."""
        self._noted += 1

    def publish(self) -> None:
        """Count what was noted."""
        if self._noted:
            self.inc(self._noted)
            self._noted = 0


class BulkHistogram(Histogram):
    """A histogram that keeps observations, single ones or arrays, until ``publish`` tallies them in bulk."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._noted: list[float] = []
        self._arrays: list[npt.NDArray[np.floating]] = []

    def note(self, values: Iterable[float]) -> None:
        """Keep values until ``publish``."""
        self._noted.extend(values)

    def note_array(self, values: npt.NDArray[np.floating]) -> None:
        """Keep an array until ``publish``."""
        self._arrays.append(values)

    def publish(self) -> npt.NDArray[np.float64]:
        """Tally what was noted, and return it."""
        n, arrays = len(self._noted), len(self._arrays)
        values = np.concatenate([self._noted[:n], *self._arrays[:arrays]])
        del self._noted[:n], self._arrays[:arrays]
        if len(values):
            tally = np.bincount(np.searchsorted(self._upper_bounds, values), minlength=len(self._buckets))
            for bucket, inside in zip(self._buckets, tally.tolist(), strict=True):
                if inside:
                    bucket.inc(inside)
            self._sum.inc(float(values.sum()))
        return values


REQUESTS = BulkCounter("eyestate_requests_total", "Requests answered.", ["route", "status"])
REQUEST_SECONDS = BulkHistogram(
    "eyestate_request_duration_seconds",
    "Time from the end of the request's body to the end of its answer.",
    ["route"],
    buckets=_LATENCIES,
)
PHASE_SECONDS = BulkHistogram(
    "eyestate_phase_duration_seconds",
    "Time per request of receiving its body, of decoding, of looking for faces and of waiting in the queue, and per "
    "batch of inference.",
    ["phase"],
    buckets=_LATENCIES,
)
BATCH_SIZE = BulkHistogram(
    "eyestate_batch_size_crops", "Crops per inference.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
)
QUEUE = Gauge("eyestate_queue_crops", "Crops waiting to be scored.", multiprocess_mode="livesum")
REJECTED = Counter("eyestate_rejected_total", "Requests refused, by the code of the error.", ["reason"])
OVER_QUOTA = Counter(
    "eyestate_requests_over_quota_total", "Requests refused because their API key's quota was used up.", ["route"]
)
CROPS = Counter("eyestate_crops_total", "Crops scored, by the state they were found in.", ["state"])
DEFERRED = Counter("eyestate_crops_deferred_total", "Crops that a cascade deferred to its large network.")
ESCALATED = Counter("eyestate_crops_escalated_total", "Deprecated: the former name of eyestate_crops_deferred_total.")
FAILED = Counter("eyestate_crops_failed_total", "Crops that could not be scored, by the code of the error.", ["code"])
SHADOW_CROPS = Counter("eyestate_shadow_crops_total", "Crops that the shadow model has scored, too.")
SHADOW_DISAGREEMENTS = Counter(
    "eyestate_shadow_disagreements_total", "Crops whose state by the shadow model is another than that answered."
)
SHADOW_DROPPED = Counter(
    "eyestate_shadow_dropped_total", "Crops that were left out of what the shadow model scores, for lack of time."
)
FACES = Counter("eyestate_faces_total", "Faces found in photos.")
FACELESS = Counter("eyestate_photos_without_face_total", "Photos in which no face was found.")
STREAMS = Gauge("eyestate_streams", "Streams that are open.", multiprocess_mode="livesum")
STREAM_FRAMES = Counter("eyestate_stream_frames_total", "Frames of streams, by what became of them.", ["outcome"])
FRAME_SECONDS = BulkHistogram(
    "eyestate_stream_frame_duration_seconds",
    "Time from the arrival of a frame of a stream to its answer.",
    buckets=_LATENCIES,
)
_MEANINGS: Final[dict[Feature, str]] = {
    "score": "Scores, P(open).",
    "width": "Width of the crops as they were sent, or cut from photos.",
    "brightness": f"Mean grey value, 0 to 255, of a sample of the crops: at most {SAMPLE} a second and worker.",
    "sharpness": "Variance of the Laplacian over that of the grey values, of the same sample of the crops.",
}
FEATURES: Final = {
    feature: BulkHistogram(METRICS[feature], meaning, ["source"], buckets=EDGES[feature])
    for feature, meaning in _MEANINGS.items()
}
PSI = Gauge(
    "eyestate_drift_psi",
    "Population stability index of recent crops against the reference; of the worker that is furthest off.",
    ["source", "feature"],
    multiprocess_mode="livemax",
)
UNCERTAIN = Gauge(
    "eyestate_uncertain_share",
    "Share of uncertain verdicts, in recent crops (of the worker that has most) and in the reference.",
    ["source", "crops"],
    multiprocess_mode="livemax",
)
REFERENCE = Gauge(
    "eyestate_reference_cumulative_share",
    "Share of the crops of the reference up to the edge le; the edges are the histograms' buckets.",
    ["source", "feature", "le"],
    multiprocess_mode="livemax",
)
MODEL = Gauge(
    "eyestate_model_info",
    "The model served and what it runs on; always 1.",
    ["name", "version", "sha256", "device"],
    multiprocess_mode="livemax",
)
WORKERS = Gauge("eyestate_workers", "Worker processes that are ready.", multiprocess_mode="livesum")
STARTS = Counter("eyestate_worker_starts_total", "Times that a worker process became ready.")
MEMORY = Gauge("eyestate_resident_memory_bytes", "Memory of the workers.", multiprocess_mode="livesum")

# Children are looked up once, not per request.
_frames: Final = {outcome: STREAM_FRAMES.labels(outcome) for outcome in ("answered", "dropped", "failed")}
_requests: dict[tuple[str, int], BulkCounter] = {}
_failed: dict[str, Counter] = {}
_rejected: dict[str, Counter] = {}
_request_seconds: dict[str, BulkHistogram] = {}
_RECEIVE, _DECODE, _DETECT, _QUEUE, _INFERENCE = (
    PHASE_SECONDS.labels(phase) for phase in ("receive", "decode", "detect", "queue", "inference")
)
_CLOSED, _OPEN, _UNCERTAIN = (CROPS.labels(state) for state in ("closed", "open", "uncertain"))
_FEATURES: Final[dict[Source, dict[Feature, BulkHistogram]]] = {
    source: {feature: histogram.labels(source) for feature, histogram in FEATURES.items()} for source in SOURCES
}


def request_done(route: str, status: int, received: float, seconds: float) -> None:
    """Count an answered request.

    Args:
        route: one of a bounded set, never the raw path.
        status: of the answer.
        received: seconds that the body took to arrive; 0 where none was waited for.
        seconds: from then to the end of the answer.
    """
    if (route, status) not in _requests:
        _requests[route, status] = REQUESTS.labels(route, status)
        _request_seconds[route] = REQUEST_SECONDS.labels(route)
        OVER_QUOTA.labels(route)  # at 0, for the queries that subtract one from the other
    _requests[route, status].note()
    _request_seconds[route].note((seconds,))
    if received:
        _RECEIVE.note((received,))


def publish_requests() -> None:
    """Put the number of requests answered since the last time into Prometheus."""
    for requests in _requests.values():
        requests.publish()


def detected(seconds: float, faces: int) -> None:
    """Note how long a decoded photo was searched for faces, and how many there are."""
    _DETECT.note((seconds,))
    FACES.inc(faces)
    if not faces:
        FACELESS.inc()


def frame(outcome: str, seconds: float | None = None) -> None:
    """Count a frame of a stream; ``outcome`` is answered, dropped or failed, ``seconds`` what its answer took."""
    _frames[outcome].inc()
    if seconds is not None:
        FRAME_SECONDS.note((seconds,))


def batch(size: int, waits: Iterable[float], seconds: float) -> None:
    """Note an inference: its crops, how long each of its requests waited for it, and how long it took (seconds)."""
    BATCH_SIZE.note((size,))
    _QUEUE.note(waits)
    _INFERENCE.note((seconds,))


def scored(scores: Scores, source: Source = "crops") -> None:
    """Note the scores given, float32 (N,), to crops of a source."""
    _FEATURES[source]["score"].note_array(scores)


def failed(code: str) -> None:
    """Count a crop that could not be scored; ``code`` is its error's."""
    if code not in _failed:
        _failed[code] = FAILED.labels(code)
    _failed[code].inc()


def rejected(reason: str) -> None:
    """Count a refused request; ``reason`` is the code of its error."""
    if reason not in _rejected:
        _rejected[reason] = REJECTED.labels(reason)
    _rejected[reason].inc()


def over_quota(route: str) -> None:
    """Count a request that was refused because the quota of its key was used up, beside ``rejected``."""
    OVER_QUOTA.labels(route).inc()


def count_in_files(folder: Path, place: int) -> None:
    """Have this process count in the files of a worker's place, and add to what has been counted there before."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # where Prometheus' client looks
    values.ValueClass = values.MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call]
    for metric in list(REGISTRY._collector_to_names):
        if isinstance(metric, MetricWrapperBase):
            for counted in (metric, *getattr(metric, "_metrics", {}).values()):
                if counted._is_observable():
                    counted._metric_init()


class Look(NamedTuple):
    """How the crops of a request look.

    Attributes:
        widths: of each, in pixels.
        sample: some of them, shrunk, uint8 (``quality.SIDE``, ``quality.SIDE``).
    """

    widths: list[int] | npt.NDArray[np.float64]
    sample: list[Pixels]


class Monitor:
    """Publishes what a process knows about the model it serves: histograms, states, drift, queue and memory.

    There is one for each application; the metrics themselves belong to the process, as Prometheus' client has it.
    """

    def __init__(self, own: DriftReference | None = None) -> None:
        """Args:
        own: the user's reference for drift, in place of the manifest's.
        """
        self._own = own
        self._samples: dict[Source, list[Pixels]] = {source: [] for source in SOURCES}
        self._exposition: asyncio.Future[bytes] | None = None
        self._exposed = 0.0  # when it was begun, on the loop's clock
        self._drift: dict[Source, Drift] = {}  # before a model is served

    def watch(self, manifest: Card, device: str, queue_depth: Callable[[], int], deferred: Callable[[], int]) -> None:
        """Publish what is served from now on, in place of what was before.

        Args:
            manifest: of the model.
            device: what it runs on.
            queue_depth: returns how many crops are waiting to be scored.
            deferred: returns how many crops a cascade has deferred to its large network so far.
        """
        if self._drift:
            self.publish()
            for metric in (MODEL, PSI, UNCERTAIN, REFERENCE):
                for gauge in cast("dict[Sequence[str], Gauge]", metric._metrics).values():
                    gauge.set(math.nan)
        self._thresholds = manifest.thresholds
        self._queue_depth = queue_depth
        self._deferred = deferred
        self._deferred_published = 0
        references: dict[Source, Reference | None] = {"crops": manifest.reference}
        if own := self._own:
            references = {source: own.of_source(source, manifest) for source in SOURCES}
            if own.model.sha256 != manifest.sha256:
                log.warning("the reference for drift is of another model: scores are not compared")
        self._drift = {source: Drift(references.get(source), manifest.thresholds) for source in SOURCES}
        MODEL.labels(manifest.name, manifest.version, manifest.sha256, device).set(1)
        for source, reference in references.items():
            if reference:
                _publish_reference(source, reference)

    @staticmethod
    def ready() -> None:
        """Publish that this worker is ready."""
        WORKERS.set(1)
        STARTS.inc()

    def look(self, crops: Sequence[Pixels] | Pixels, source: Source = "crops") -> Look:
        """How crops look, for ``decoded``. Safe to call from any thread: large ones take long to shrink.

        Args:
            crops: grey, uint8 (height, width) each or (N, height, width) in all, not yet resized for the model.
            source: where they come from.
        """
        room = SAMPLE - len(self._samples[source])
        sampled = crops[:: math.ceil(len(crops) / room)] if room > 0 and len(crops) else ()
        if isinstance(crops, np.ndarray):
            return Look(np.full(len(crops), float(crops.shape[2])), [*map(quality.shrink, sampled)])
        return Look([crop.shape[1] for crop in crops], [*map(quality.shrink, sampled)])

    def decoded(self, seconds: float, look: Look, source: Source = "crops") -> None:
        """Note how long the crops of a request took to decode, and how they look.

        Args:
            seconds: from the body's bytes to pixels.
            look: of the crops.
            source: where they come from.
        """
        _DECODE.note((seconds,))
        widths, sample = _FEATURES[source]["width"], self._samples[source]
        if isinstance(look.widths, np.ndarray):
            widths.note_array(look.widths)
        else:
            widths.note(look.widths)
        sample.extend(look.sample[: SAMPLE - len(sample)])

    def decoded_one(self, seconds: float, crop: Pixels) -> None:
        """As ``decoded``, of one small crop, grey, uint8 (height, width)."""
        _DECODE.note((seconds,))
        _FEATURES["crops"]["width"].note((crop.shape[1],))
        sample = self._samples["crops"]
        if len(sample) < SAMPLE:
            sample.append(quality.shrink(crop))

    def publish(self) -> None:
        """Put what was noted since the last time into Prometheus."""
        publish_requests()
        for histogram in (
            *_request_seconds.values(),
            _RECEIVE,
            _DECODE,
            _DETECT,
            _QUEUE,
            _INFERENCE,
            BATCH_SIZE,
            FRAME_SECONDS,
        ):
            histogram.publish()
        for source, histograms in _FEATURES.items():
            self._measure_sample(source)
            newest = {feature: histogram.publish() for feature, histogram in histograms.items()}
            self._count_states(newest["score"])
            _publish_drift(source, self._drift[source], newest)
        self._count_deferred()
        QUEUE.set(self._queue_depth())
        MEMORY.set(_resident_bytes())

    async def publish_regularly(self) -> None:
        """Publish every ``PUBLISH_SECONDS`` until cancelled, and a last time then."""
        try:
            while True:
                await asyncio.sleep(PUBLISH_SECONDS)
                self.publish()
        finally:
            self.publish()

    async def exposition(self) -> bytes:
        """All metrics in Prometheus' text format, at most ``FRESH_SECONDS`` old, however many ask for them."""
        now = asyncio.get_running_loop().time()
        if self._exposition is None or now - self._exposed > FRESH_SECONDS:
            self.publish()
            self._exposed = now
            self._exposition = asyncio.ensure_future(asyncio.to_thread(_render))
        return await asyncio.shield(self._exposition)  # others wait for it, too

    def _measure_sample(self, source: Source) -> None:
        sample = self._samples[source]
        n = len(sample)
        measures = quality.measure(sample[:n])
        del sample[:n]
        _FEATURES[source]["brightness"].note_array(measures.brightness)
        _FEATURES[source]["sharpness"].note_array(measures.sharpness)

    def _count_states(self, scores: npt.NDArray[np.float64]) -> None:
        closed, open_ = (scores <= self._thresholds.closed).sum(), (scores >= self._thresholds.open).sum()
        _CLOSED.inc(int(closed))
        _OPEN.inc(int(open_))
        _UNCERTAIN.inc(int(len(scores) - closed - open_))

    def _count_deferred(self) -> None:
        total = self._deferred()
        for counter in (DEFERRED, ESCALATED):
            counter.inc(total - self._deferred_published)
        self._deferred_published = total


def _render() -> bytes:
    """All metrics, summed over the worker processes if there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(_Present(REGISTRY))
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client is untyped
    return generate_latest(_Present(registry))


class _Present(CollectorRegistry):
    """What a registry holds but for what has no value any more: gauges of a model that is served no longer."""

    def __init__(self, whole: CollectorRegistry) -> None:
        super().__init__()
        self._whole = whole

    def collect(self) -> Iterator[Metric]:
        for family in self._whole.collect():
            family.samples = [sample for sample in family.samples if not math.isnan(sample.value)]
            yield family


def _publish_reference(source: Source, reference: Reference) -> None:
    if "score" in reference.features:
        UNCERTAIN.labels(source, "reference").set(reference.uncertain)
    for feature, distribution in reference.features.items():
        # There is one share more than edges: what lies beyond the last.
        for edge, share in zip(distribution.edges, accumulate(distribution.shares), strict=False):
            le = floatToGoString(edge)  # type: ignore[no-untyped-call]
            REFERENCE.labels(source, feature, le).set(share)


def _publish_drift(source: Source, drift: Drift, newest: Mapping[Feature, npt.NDArray[np.float64]]) -> None:
    for feature, observed in newest.items():
        drift.add(feature, observed)
    for feature, index in drift.indices().items():
        PSI.labels(source, feature).set(index)
    if (share := drift.uncertain()) is not None:
        UNCERTAIN.labels(source, "recent").set(share)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
