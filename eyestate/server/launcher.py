"""Where ``bentoml serve`` starts processes: the supervisor takes the place of circus.

Circus takes commands from any local user on a port of the loopback interface, looks after its processes every ten
seconds, and starts each of them from nothing.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from _bentoml_impl.worker import service as worker
from bentoml import serving
from bentoml._internal import log
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.utils import circus

from eyestate.errors import SettingError
from eyestate.server import metric_files, metrics, processes
from eyestate.server.supervisor import Supervisor
from eyestate.settings import Settings


def install(settings: Settings) -> None:
    """Have ``bentoml serve`` start its workers through ``Launcher``, and claim the files of the metrics first.

    BentoML has no option for either; it looks both up when it serves.
    """
    circus.Arbiter = partial(  # type: ignore[assignment,misc]  # stands in for a class
        Launcher, drain_seconds=settings.drain, grpc_port=settings.grpc_port
    )
    serving.ensure_prometheus_dir = partial(_claim_metric_files, settings.workers)


class Launcher:
    """What BentoML makes and starts as its arbiter."""

    def __init__(
        self,
        watchers: Sequence[Any],
        *,
        sockets: Sequence[Any],
        drain_seconds: float,
        grpc_port: int | None,
        plugins: object = None,
        **_: Any,
    ) -> None:
        """Args:
        watchers: BentoML's description of the workers, which are all of one kind.
        sockets: circus' sockets, to listen on.
        drain_seconds: after the signal to stop, for which connections are taken.
        grpc_port: on which the workers listen for gRPC, if they do.
        plugins: of circus, with which BentoML would watch for changes of the code.

        Raises:
            SystemExit: there are plugins, or gRPC without TLS beside HTTP with it.
        """
        if plugins:
            raise SystemExit("eyestate: --reload is not supported; start the service again after a change")
        (self._watcher,) = watchers
        if grpc_port and "--ssl-certfile" in self._watcher.args:
            raise SystemExit(
                "eyestate: EYESTATE_GRPC_PORT cannot be set beside a certificate: gRPC would be without TLS; leave TLS "
                "to a proxy in front of both"
            )
        self._grpc_port = grpc_port
        self._metrics = Path(self._watcher.env["PROMETHEUS_MULTIPROC_DIR"])
        self._sockets = sockets
        self._drain_seconds = drain_seconds
        self.exit_stack = ExitStack()  # what BentoML wants done at the end

    def start(self, cb: Callable[[None], object]) -> None:
        """Listen, tell ``cb``, and serve until a signal to stop.

        Raises:
            SystemExit: an address cannot be listened on, or the workers cannot start.
        """
        with self.exit_stack:
            for listening in self._sockets:
                try:
                    listening.bind_and_listen()
                    if self._grpc_port:
                        _check_free(listening, self._grpc_port)
                except OSError as error:
                    where = error.filename or listening.location
                    raise SystemExit(f"eyestate: cannot listen on {where}: {error.strerror}") from None
            cb(None)
            supervisor = Supervisor(
                self._work,
                self._watcher.numprocesses,
                sockets=self._sockets,
                drain_seconds=self._drain_seconds,
                on_death=partial(metric_files.forget_gauges, self._metrics),
            )
            if not supervisor.run():
                raise SystemExit("eyestate: the workers cannot start; the log says why")

    def _work(self, place: int) -> None:
        """Run BentoML's worker in this process, as circus would in one of its own."""
        os.chdir(self._watcher.working_dir)
        os.environ.update(self._watcher.env)
        values = {f"$(circus.sockets.{listening.name})": str(listening.fileno()) for listening in self._sockets}
        values["$(CIRCUS.WID)"] = str(place)
        _, module, *arguments = [values.get(argument, argument) for argument in self._watcher.args]
        processes.show_command("python", "-m", module, *arguments)
        metrics.count_in_files(self._metrics, place)
        log.configure_server_logging = lambda: None  # workers log as their supervisor does
        worker.main(args=arguments, standalone_mode=False)


def _check_free(http: socket.socket, port: int) -> None:
    """Whether the workers can listen on a port of the address of the HTTP server, which each shares with the others.

    Raises:
        OSError: they cannot; its file name is the address.
    """
    host = http.getsockname()[0]
    with socket.socket(http.family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            error.filename = f"{host}:{port}"
            raise


def _claim_metric_files(workers: int) -> str:
    try:
        return str(metric_files.claim(Path(BentoMLContainer.bentoml_home.get()), workers))
    except SettingError as error:
        raise SystemExit(f"eyestate: {error.message}") from None
