"""OpenTelemetry traces, enabled by OpenTelemetry's own variables for an OTLP endpoint."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from threading import Thread
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from eyestate import __version__

log = logging.getLogger("eyestate.server.tracing")

CLOSE_SECONDS: Final = 2.0  # for the last spans
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SCOPE_KEY: Final = "eyestate.trace"
_UNTRACED: Final = nullcontext()


class Tracing:
    """Spans of requests, sent by OTLP over HTTP."""

    def __init__(self) -> None:
        resource = Resource.create({"service.version": __version__})
        if resource.attributes["service.name"] == "unknown_service":
            resource = resource.merge(Resource({"service.name": "eyestate"}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("eyestate", __version__)

    def begin(self, scope: MutableMapping[str, Any], route: str, request_id: str) -> Span:
        """Begin the span of a request, as a child of the caller's ``traceparent`` if there is one."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            context=extract(headers),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "http.route": route, "eyestate.request_id": request_id},
        )
        scope[_SCOPE_KEY] = self._tracer, span
        return span

    def end(self, span: Span, status: int, received: float, seconds: float) -> None:
        """End a request's span, and tell how much of it the body took.

        Args:
            span: of the request.
            status: of HTTP that it was answered with.
            received: seconds that the body took to arrive; 0 where none was waited for.
            seconds: since then.
        """
        if received:
            ended = time.time_ns() - round(seconds * 1e9)
            began = ended - round(received * 1e9)
            self._tracer.start_span("receive", set_span_in_context(span), start_time=began).end(ended)
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()

    def close(self) -> None:
        """Export the remaining spans, unless the collector takes longer than ``CLOSE_SECONDS``.

        OpenTelemetry itself would wait for it, and try it again, for 30 seconds.
        """
        exporting = Thread(target=self._provider.shutdown, daemon=True)
        exporting.start()
        exporting.join(CLOSE_SECONDS)
        if exporting.is_alive():
            log.warning("the last spans are lost: the collector did not take them within %g s", CLOSE_SECONDS)


def configured() -> Tracing | None:
    """Tracing as configured by the environment; None without an endpoint."""
    return Tracing() if any(os.environ.get(variable) for variable in _ENDPOINTS) else None


def phase(scope: Mapping[str, Any], name: str) -> AbstractContextManager[object]:
    """A phase of a request, as a child of its span; does nothing if requests are not traced."""
    if _SCOPE_KEY not in scope:
        return _UNTRACED
    tracer: Tracer
    tracer, request = scope[_SCOPE_KEY]
    return tracer.start_as_current_span(name, context=set_span_in_context(request))
