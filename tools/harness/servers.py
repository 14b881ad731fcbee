"""Start a server as its users do, measure the memory of all its processes, stop it and check that it is gone."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import psutil

PROJECT: Final = Path(__file__).parents[2]
SCRATCH: Final = PROJECT / ".bentoml" / "loadtests"  # environments, logs and generated bundles; ignored by git
START_SECONDS: Final = 120
STOP_SECONDS: Final = 30
ORPHAN_SECONDS: Final = 5  # for child processes to exit after their parent
MIB: Final = 2**20
_SERVER_PORTS: Final = range(20_000, 32_768)


class ServerError(click.ClickException):
    """A server that did not start or did not stop."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process tree in MiB.

    Attributes:
        pss: shared pages divided among the processes that share them.
        rss: shared pages counted once per process.
        anonymous: ``rss`` without file-backed pages. Leaks show here; PSS also changes when unrelated processes map the
            same libraries.
    """

    pss: float
    rss: float
    anonymous: float


@dataclass(frozen=True, slots=True)
class Probe:
    """A request answered with 200 once the server is ready: GET, or POST if it has a body."""

    path: str
    body: bytes | None = None
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def processes(self) -> list[psutil.Process]:
        """The server's process and all its descendants; empty once it is gone."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def memory(self) -> Memory:
        """Current memory of the process tree."""
        pss = rss = anonymous = 0
        for process in self.processes():
            try:
                used = process.memory_full_info()
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue  # it exited after it was listed
            pss += used.pss
            rss += used.rss
            anonymous += used.rss - used.shared
        return Memory(pss / MIB, rss / MIB, anonymous / MIB)

    def fetch(self, probe: Probe) -> bytes:
        """The body of the response to a request.

        Raises:
            URLError, ConnectionError, TimeoutError: there is no response, or its status is 4xx or 5xx.
        """
        request = urllib.request.Request(self.url + probe.path, probe.body, {"Content-Type": probe.content_type})  # noqa: S310
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return bytes(answer.read())

    def wait_until_ready(self, probe: Probe) -> None:
        """Wait until the probe succeeds.

        Raises:
            ServerError: the server exited, or was not ready within ``START_SECONDS``.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.fetch(probe)
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
            else:
                return
        raise ServerError(f"the server did not become ready; its log {self.log} ends:\n{tail(self.log)}")

    def terminate(self) -> bool:
        """Stop the server with SIGTERM, kill what remains, and return whether it stopped by itself.

        Raises:
            ServerError: a process survives even SIGKILL.
        """
        processes = self.processes()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.wait(STOP_SECONDS)
        remaining = still_running(psutil.wait_procs(processes, timeout=ORPHAN_SECONDS)[1])
        for process in remaining:
            process.kill()
        if immortal := still_running(psutil.wait_procs(remaining, timeout=ORPHAN_SECONDS)[1]):
            raise ServerError(f"these processes of the server could not be killed: {immortal}")
        return not remaining and self.process.returncode in (0, -signal.SIGTERM)


@contextmanager
def running_server(
    command: Sequence[str], environment: Mapping[str, str], ready: Probe, log: Path, port: int | None = None
) -> Iterator[Server]:
    """A server that is ready; it is stopped when the block ends.

    Args:
        command: the program and its arguments; ``{port}`` is replaced by the port to listen on.
        environment: variables in addition to this process's; ``{port}`` as above.
        ready: the probe that succeeds once the server is ready.
        log: file for its output.
        port: to listen on; a free one if None.

    Raises:
        ServerError: it did not start or did not stop.
    """
    port = port or free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as output,
        subprocess.Popen(  # noqa: S603
            [part.replace("{port}", str(port)) for part in command],
            cwd=PROJECT,
            env={
                **os.environ,
                "PYTHONPATH": str(PROJECT),
                **{name: value.replace("{port}", str(port)) for name, value in environment.items()},
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C only reaches this process, which stops the server
        ) as process,
    ):
        server = Server(process, port, log)
        try:
            server.wait_until_ready(ready)
            yield server
        finally:
            server.terminate()


def still_running(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """The processes that have not exited; a zombie has, but stays listed until its parent reaps it."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def free_port() -> int:
    """A free TCP port of the loopback interface.

    It is below 32768, where Linux's ephemeral ports begin: no outgoing connection takes it before a server listens.

    Raises:
        ServerError: there is none.
    """
    for port in random.sample(_SERVER_PORTS, len(_SERVER_PORTS)):
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise ServerError("no port is free")


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
