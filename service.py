"""The BentoML service: BentoML reads the command line and runs the workers, eyestate starts them and answers.

Start it with ``make serve`` or ``bentoml serve service:EyeState``.
"""

from __future__ import annotations

import os
from typing import Any

import bentoml
from bentoml import Service
from bentoml._internal.utils.analytics import usage_stats
from starlette.types import ASGIApp

from eyestate.bundle import load_model
from eyestate.errors import EyestateError
from eyestate.server import connections, launcher, logs
from eyestate.server.app import create_app, wrap
from eyestate.server.auth import ApiKeys
from eyestate.settings import settings, unknown_variables

os.environ[usage_stats.BENTOML_DO_NOT_TRACK] = "True"  # BentoML reports nothing to its makers, here or in the workers
usage_stats.do_not_track.cache_clear()  # its command line has asked before it came to this file

try:
    # What is wrong ends the start here rather than in the workers, which would be restarted again and again.
    SETTINGS = settings()
    MODEL = load_model()
    if SETTINGS.api_keys_file:
        ApiKeys(SETTINGS.api_keys_file)
except EyestateError as error:
    raise SystemExit(f"eyestate: {error.message}") from None

logs.configure(SETTINGS.log_level)
logs.warn_of_unknown(unknown_variables())
launcher.install(SETTINGS)
app = create_app(SETTINGS, MODEL)


class EdgeService(Service[Any]):  # type: ignore[misc]  # BentoML is not typed
    """A BentoML service behind the edge: BentoML's middleware sees only the requests that eyestate does not answer."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """What a worker serves; called right before the worker configures uvicorn."""
        served = wrap(app, super().to_asgi(is_main), SETTINGS)
        connections.install(SETTINGS, app.state.edge.end_slowest_upload)
        return served


@bentoml.asgi_app(app)
@bentoml.service(
    name="eyestate",
    service_class=EdgeService,
    workers=SETTINGS.workers,
    # The application serves /metrics itself: BentoML's metrics label requests by raw path.
    metrics={"enabled": False},
    traffic={"timeout": SETTINGS.timeout},
)
class EyeState:
    """Open/closed-eye scoring."""
