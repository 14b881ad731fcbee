"""Every Prometheus metric of the service, in one place; ``docs/metrics.md`` explains them.

Counters are exact at any moment. Whatever has a distribution is noted in plain lists, which costs a request next to
nothing, and put into Prometheus in bulk by ``publish``: once a second, and whenever this process is scraped.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)
from prometheus_client.registry import REGISTRY
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyestate import quality
from eyestate.bundle import Manifest, Thresholds
from eyestate.images import Pixels
from eyestate.scorer import Scores, State

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
PUBLISH_SECONDS: Final = 1.0
SAMPLE: Final = 64  # crops per worker and PUBLISH_SECONDS whose pixels are measured

_LATENCIES: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Distribution(Histogram):
    """A histogram that takes its observations in bulk: noted one by one or as arrays, tallied by ``publish``."""

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
            places = np.searchsorted(self._upper_bounds, values)
            for bucket, inside in zip(
                self._buckets, np.bincount(places).tolist(), strict=False
            ):  # counts end at the last bucket in use
                if inside:
                    bucket.inc(inside)
            self._sum.inc(float(values.sum()))
        return values


REQUESTS = Counter("eyestate_requests_total", "Requests answered.", ["route", "status"])
REQUEST_SECONDS = Distribution(
    "eyestate_request_duration_seconds",
    "Time from the request's head to the end of its answer.",
    ["route"],
    buckets=_LATENCIES,
)
PHASE_SECONDS = Distribution(
    "eyestate_phase_duration_seconds",
    "Time per request of decoding and of waiting in the queue, and time per batch of inference.",
    ["phase"],
    buckets=_LATENCIES,
)
BATCH_SIZE = Distribution(
    "eyestate_batch_size_crops", "Crops per inference.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
)
QUEUE = Gauge("eyestate_queue_crops", "Crops waiting to be scored.", multiprocess_mode="livesum")
REJECTED = Counter("eyestate_rejected_total", "Requests refused, by the code of the error.", ["reason"])
CROPS = Counter("eyestate_crops_total", "Crops scored, by the state they were found in.", ["state"])
FAILED = Counter("eyestate_crops_failed_total", "Crops that could not be scored, by the code of the error.", ["code"])
SCORE = Distribution(
    "eyestate_crop_score",
    "Scores, P(open).",
    buckets=(0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1),
)
WIDTH = Distribution(
    "eyestate_crop_width_pixels",
    "Width of the crops as they were sent.",
    buckets=(12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 4096),
)
BRIGHTNESS = Distribution(
    "eyestate_crop_brightness",
    f"Mean grey value, 0 to 255, of a sample of the crops: at most {SAMPLE} a second and worker.",
    buckets=tuple(range(20, 256, 20)),
)
SHARPNESS = Distribution(
    "eyestate_crop_sharpness",
    f"Variance of the Laplacian at {quality.SIDE} px of a sample of the crops: at most {SAMPLE} a second and worker.",
    buckets=(5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560),
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
_requests: dict[tuple[str, int], Counter] = {}
_request_seconds: dict[str, Distribution] = {}
_DECODE, _QUEUE, _INFERENCE = (PHASE_SECONDS.labels(phase) for phase in ("decode", "queue", "inference"))
_sample: list[Pixels] = []


@dataclass(frozen=True, slots=True)
class _Served:
    thresholds: Thresholds
    queue_depth: Callable[[], int]


_served: _Served


def set_model(manifest: Manifest, device: str = "cpu", queue_depth: Callable[[], int] = lambda: 0) -> None:
    """Publish that this worker is ready, and what it serves.

    Args:
        manifest: of the model.
        device: what it runs on.
        queue_depth: tells how many crops wait to be scored.
    """
    global _served  # noqa: PLW0603  # one model per process
    _served = _Served(manifest.thresholds, queue_depth)
    MODEL.labels(manifest.name, manifest.version, manifest.sha256, device).set(1)
    WORKERS.set(1)
    STARTS.inc()


def request_done(route: str, status: int, seconds: float) -> None:
    """Count an answered request. ``route`` is one of a bounded set, never the raw path."""
    if (route, status) not in _requests:
        _requests[route, status] = REQUESTS.labels(route, status)
        _request_seconds[route] = REQUEST_SECONDS.labels(route)
    _requests[route, status].inc()
    _request_seconds[route].note((seconds,))


def decoded(seconds: float, crops: Sequence[Pixels] | Pixels) -> None:
    """Note how long the crops of a request took to decode, and how they look.

    Args:
        seconds: from the body's bytes to pixels.
        crops: grey, uint8 (height, width) each or (N, height, width) in all, not yet resized for the model.
    """
    _DECODE.note((seconds,))
    if isinstance(crops, np.ndarray):
        WIDTH.note_array(np.full(len(crops), float(crops.shape[2])))
    else:
        WIDTH.note([crop.shape[1] for crop in crops])
    room = SAMPLE - len(_sample)
    if room > 0 and len(crops):
        _sample.extend(map(quality.shrink, crops[:: math.ceil(len(crops) / room)]))


def batch(size: int, waits: Iterable[float], seconds: float) -> None:
    """Note an inference: its crops, how long each of its requests waited for it, and how long it took (seconds)."""
    BATCH_SIZE.note((size,))
    _QUEUE.note(waits)
    _INFERENCE.note((seconds,))


def scored(scores: Scores) -> None:
    """Note the scores given, float32 (N,)."""
    SCORE.note_array(scores)


def failed(code: str) -> None:
    """Count a crop that could not be scored; ``code`` is its error's."""
    FAILED.labels(code).inc()


def rejected(reason: str) -> None:
    """Count a refused request; ``reason`` is the code of its error."""
    REJECTED.labels(reason).inc()


def publish() -> None:
    """Put what was noted since the last time into Prometheus."""
    for distribution in (*_request_seconds.values(), _DECODE, _QUEUE, _INFERENCE, BATCH_SIZE, WIDTH):
        distribution.publish()
    scores = SCORE.publish()
    closed, open_ = (scores <= _served.thresholds.closed).sum(), (scores >= _served.thresholds.open).sum()
    for state, crops in (("closed", closed), ("open", open_), ("uncertain", len(scores) - closed - open_)):
        if crops:
            CROPS.labels(state).inc(float(crops))
    n = len(_sample)
    measures = quality.measure(_sample[:n])
    del _sample[:n]
    BRIGHTNESS.note_array(measures.brightness)
    SHARPNESS.note_array(measures.sharpness)
    BRIGHTNESS.publish()
    SHARPNESS.publish()
    QUEUE.set(_served.queue_depth())
    MEMORY.set(_resident_bytes())


async def publish_regularly() -> None:
    """Publish every ``PUBLISH_SECONDS`` until cancelled, and a last time then."""
    try:
        while True:
            await asyncio.sleep(PUBLISH_SECONDS)
            publish()
    finally:
        publish()


def exposition() -> bytes:
    """All metrics in Prometheus' text format, summed over the worker processes where there are several."""
    publish()
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    _forget_dead_workers(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped
    return generate_latest(registry)


def _forget_dead_workers(folder: Path) -> None:
    """Drop the gauges of processes that are gone; what they counted stays."""
    for pid in {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class RequestMetrics:
    """ASGI middleware that counts and times requests by route; paths that are no route share the label ``other``."""

    def __init__(self, app: ASGIApp, routes: Collection[str]) -> None:
        """Args:
        app: the application.
        routes: paths, which may hold parameters in Starlette's form: ``/v2/models/{name}``.
        """
        self.app = app
        self._fixed = frozenset(route for route in routes if "{" not in route)
        self._patterns = [(compile_path(route)[0], route) for route in routes if "{" in route]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 499  # nginx's "client closed request", until an answer begins

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception:
            status = 500  # the server's answer to whatever the application does not catch
            raise
        finally:
            request_done(self._route(scope["path"]), status, time.perf_counter() - started)

    def _route(self, path: str) -> str:
        if path in self._fixed:
            return path
        return next((route for pattern, route in self._patterns if pattern.match(path)), "other")


# --- until routes.py has moved to the functions above
def count_states(states: Iterable[State]) -> None:
    """Nothing: ``scored`` counts them."""


def timed(score: Callable[[Sequence[Pixels]], Scores]) -> Callable[[Sequence[Pixels]], Scores]:
    """The scoring function, with its batch sizes and times measured."""

    def measured(crops: Sequence[Pixels]) -> Scores:
        started = time.perf_counter()
        scores = score(crops)
        batch(len(crops), (), time.perf_counter() - started)
        scored(scores)
        return scores

    return measured
