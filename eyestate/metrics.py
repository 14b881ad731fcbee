"""Every Prometheus metric of the service, in one place."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

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
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyestate.bundle import Manifest
from eyestate.images import Pixels
from eyestate.scorer import Scores, State

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

REQUESTS = Counter("eyestate_requests_total", "Requests answered.", ["route", "status"])
REQUEST_SECONDS = Histogram(
    "eyestate_request_duration_seconds",
    "Time from the request's head to the end of its answer.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
CROPS = Counter("eyestate_crops_total", "Crops scored, by the state they were found in.", ["state"])
BATCH_SIZE = Histogram("eyestate_batch_size_crops", "Crops per inference.", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
INFERENCE_SECONDS = Histogram(
    "eyestate_inference_duration_seconds",
    "Time of one inference, whatever its batch size.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
)
MODEL = Gauge(
    "eyestate_model_info", "The model served; always 1.", ["name", "version", "sha256"], multiprocess_mode="max"
)


def set_model(manifest: Manifest) -> None:
    """Publish which model is served."""
    MODEL.labels(manifest.name, manifest.version, manifest.sha256).set(1)


def count_states(states: Iterable[State]) -> None:
    """Count scored crops."""
    for state in states:
        CROPS.labels(state).inc()


def timed(score: Callable[[Sequence[Pixels]], Scores]) -> Callable[[Sequence[Pixels]], Scores]:
    """The scoring function, with its batch sizes and times measured."""

    def measured(crops: Sequence[Pixels]) -> Scores:
        BATCH_SIZE.observe(len(crops))
        with INFERENCE_SECONDS.time():
            return score(crops)

    return measured


def exposition() -> bytes:
    """All metrics in Prometheus' text format, summed over the worker processes where there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # prometheus_client leaves it untyped
    return generate_latest(registry)


class RequestMetrics:
    """ASGI middleware that counts and times requests by route; paths that are no route share one label."""

    def __init__(self, app: ASGIApp, routes: Collection[str]) -> None:
        self.app = app
        self.routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self.routes else "other"
        started = time.perf_counter()

        async def count(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                REQUESTS.labels(route, message["status"]).inc()
            elif not message.get("more_body", False):
                REQUEST_SECONDS.labels(route).observe(time.perf_counter() - started)

        await self.app(scope, receive, count)
