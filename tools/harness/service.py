"""Our service, started as its users start it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from eyestate.bundle import Bundle, CascadeBundle
from eyestate.settings import Device
from tools.harness.servers import SCRATCH, Probe, Server, running

_COMMAND: Final = (sys.executable, "-m", "bentoml", "serve", "service", "--host", "127.0.0.1", "--port", "{port}")


@contextmanager
def served(
    bundle: Bundle | CascadeBundle,
    device: Device,
    workers: int,
    name: str,
    port: int | None = None,
    /,
    **settings: str,
) -> Iterator[Server]:
    """``bentoml serve service`` with a model; it is gone when the block ends.

    Args:
        bundle: what it serves.
        device: what computes.
        workers: processes that answer.
        name: of its log.
        port: to listen on; a free one where it is None.
        settings: more environment variables.

    Raises:
        ServerError: it did not start or did not go away.
    """
    # A home of its own: BentoML empties the folder of the metrics there when it starts, also that of a service beside.
    with tempfile.TemporaryDirectory() as home:
        environment = {
            "EYESTATE_MODEL": str(bundle.path.absolute()),
            "EYESTATE_DEVICE": device,
            "EYESTATE_WORKERS": str(workers),
            "BENTOML_HOME": home,
            "BENTOML_DO_NOT_TRACK": "True",
            **settings,
        }
        with running(_COMMAND, environment, Probe("/readyz"), SCRATCH / "logs" / f"{name}.log", port) as server:
            yield server
