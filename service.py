"""The BentoML service: BentoML runs the processes, sockets, probes and the documentation page, eyestate answers.

Start it with ``make serve`` or ``bentoml serve service:EyeState``.
"""

from __future__ import annotations

from typing import Any

import bentoml
from bentoml import Service
from starlette.types import ASGIApp

from eyestate.bundle import load_model
from eyestate.errors import EyestateError
from eyestate.server import connections, logs
from eyestate.server.app import create_app, wrap
from eyestate.settings import settings

try:
    SETTINGS = settings()
    load_model()  # before workers come up, which would be started again and again
except EyestateError as error:
    raise SystemExit(f"eyestate: {error.message}") from None

logs.configure()
app = create_app(SETTINGS)


class Fronted(Service[Any]):  # type: ignore[misc]  # BentoML leaves its types out
    """A BentoML service whose own middleware is passed only by the requests that eyestate does not answer."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """What a worker serves; it asks for it right before it configures uvicorn."""
        connections.choose()
        return wrap(app, super().to_asgi(is_main), SETTINGS)


@bentoml.asgi_app(app)
@bentoml.service(
    name="eyestate",
    service_class=Fronted,
    workers=SETTINGS.workers,
    # The application serves /metrics itself: BentoML's metrics label requests by raw path.
    metrics={"enabled": False},
    traffic={"timeout": SETTINGS.timeout},
)
class EyeState:
    """Open/closed-eye scoring."""
