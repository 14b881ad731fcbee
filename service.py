"""The BentoML service: BentoML runs the processes, probes and the documentation page, eyestate answers the requests.

Start it with ``make serve`` or ``bentoml serve service:EyeState``.
"""

from __future__ import annotations

import bentoml

from eyestate import load
from eyestate.routes import app

load()  # a missing or damaged model ends the start here, before workers come up


@bentoml.asgi_app(app())
@bentoml.service(
    name="eyestate",
    # The application serves /metrics itself: BentoML's metrics label requests by raw path.
    metrics={"enabled": False},
    traffic={"timeout": 60},
)
class EyeState:
    """Open/closed-eye scoring."""
