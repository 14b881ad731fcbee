"""The BentoML service: BentoML runs the processes, probes and the documentation page, eyestate answers the requests.

Start it with ``make serve`` or ``bentoml serve service:EyeState``.
"""

from __future__ import annotations

import bentoml

from eyestate.bundle import load_bundle
from eyestate.errors import BundleError
from eyestate.routes import app

try:
    load_bundle()  # before workers come up, which would be started again and again
except BundleError as error:
    raise SystemExit(f"eyestate: {error.message}") from None


@bentoml.asgi_app(app())
@bentoml.service(
    name="eyestate",
    # The application serves /metrics itself: BentoML's metrics label requests by raw path.
    metrics={"enabled": False},
    traffic={"timeout": 60},
)
class EyeState:
    """Open/closed-eye scoring."""
