"""Start this project's service as its users do."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from eyestate.bundle import Bundle, CascadeBundle
from eyestate.settings import Device
from tools.harness.servers import SCRATCH, Probe, Server, running_server

_COMMAND: Final = (sys.executable, "-m", "bentoml", "serve", "service", "--host", "127.0.0.1", "--port", "{port}")


@contextmanager
def running_service(
    bundle: Bundle | CascadeBundle,
    device: Device,
    workers: int,
    name: str,
    port: int | None = None,
    /,
    **settings: str,
) -> Iterator[Server]:
    """``bentoml serve service`` with a model; it is stopped when the block ends.

    Args:
        bundle: the model to serve.
        device: where it runs.
        workers: number of worker processes.
        name: of the log file.
        port: to listen on; a free one if None.
        settings: additional environment variables.

    Raises:
        ServerError: it did not start or did not stop.
    """
    # A separate home: on start BentoML empties the metrics folder in it, even if another service is using it.
    with tempfile.TemporaryDirectory() as home:
        environment = {
            "EYESTATE_MODEL": str(bundle.path.absolute()),
            "EYESTATE_DEVICE": device,
            "EYESTATE_WORKERS": str(workers),
            "BENTOML_HOME": home,
            "BENTOML_DO_NOT_TRACK": "True",
            **settings,
        }
        with running_server(_COMMAND, environment, Probe("/readyz"), SCRATCH / "logs" / f"{name}.log", port) as server:
            yield server
