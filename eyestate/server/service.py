"""The BentoML service: BentoML describes and runs the workers, eyestate starts them and answers.

Importing this module reads the settings and verifies the model. ``eyestate serve`` and ``bentoml serve
eyestate.server.service`` serve it; ``service.py`` of the repository is the name by which bentos know it.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import bentoml
from _bentoml_impl import server
from bentoml import Service
from bentoml._internal.utils.analytics import usage_stats
from starlette.types import ASGIApp

from eyestate import drift_reference
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
    if SETTINGS.shadow_model:
        load_model(SETTINGS.shadow_model)
    if SETTINGS.drift_reference:
        drift_reference.load(SETTINGS.drift_reference)
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
        connections.install(SETTINGS, app.state.edge, app.state.fast_path)
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


def serve_http(host: str, port: int, *, certificate: Path | None, key: Path | None, client_ca: Path | None) -> None:
    """Serve as ``bentoml serve`` does, until a signal to stop.

    Args:
        host: IP address to listen on.
        port: TCP port.
        certificate: PEM file, for https.
        key: its private key, unless the same file holds it.
        client_ca: PEM file of the CAs, one of which must have signed the client's certificate.

    Raises:
        SystemExit: the address cannot be listened on, or the workers cannot start.
    """
    service: Any = EyeState  # which the decorators made of the class
    service.inject_config()
    server.serve_http(
        service,
        host=host,
        port=port,
        ssl_certfile=str(certificate) if certificate else None,
        ssl_keyfile=str(key) if key else None,
        ssl_ca_certs=str(client_ca) if client_ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED.value if client_ca else None,
    )
