"""Start a server as its users do, watch the memory of all its processes, stop it and see that it is gone."""

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
SCRATCH: Final = PROJECT / ".bentoml" / "loadtests"  # environments, logs and bundles made here; git ignores it
START_SECONDS: Final = 120
STOP_SECONDS: Final = 30
ORPHAN_SECONDS: Final = 5  # for its children to follow it
MIB: Final = 2**20
_SERVER_PORTS: Final = range(20_000, 32_768)


class ServerError(click.ClickException):
    """A server that did not start, or did not go away."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process tree in MiB.

    ``pss`` divides pages that processes share among them, ``rss`` counts them once for each process; ``anonymous`` is
    what ``rss`` holds besides files: where a leak shows, while pss also moves when strangers use the same libraries.
    """

    pss: float
    rss: float
    anonymous: float


@dataclass(frozen=True, slots=True)
class Probe:
    """A request that answers 200 once the server is ready: GET, or POST where there is a body."""

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

    def tree(self) -> list[psutil.Process]:
        """The server's process and all that descend from it; empty once it is gone."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def memory(self) -> Memory:
        """What the process tree uses now."""
        pss = rss = anonymous = 0
        for process in self.tree():
            try:
                used = process.memory_full_info()
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue  # it ended between the listing and the reading
            pss += used.pss
            rss += used.rss
            anonymous += used.rss - used.shared
        return Memory(pss / MIB, rss / MIB, anonymous / MIB)

    def ask(self, probe: Probe) -> bytes:
        """The body of the answer to a request.

        Raises:
            URLError, ConnectionError, TimeoutError: there is none, or its status is 4xx or 5xx.
        """
        request = urllib.request.Request(self.url + probe.path, probe.body, {"Content-Type": probe.content_type})  # noqa: S310
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return bytes(answer.read())

    def wait_until_ready(self, probe: Probe) -> None:
        """Wait until the probe is answered.

        Raises:
            ServerError: the server ended, or did not answer within ``START_SECONDS``.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.ask(probe)
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
            else:
                return
        raise ServerError(f"the server did not become ready; its log {self.log} ends:\n{tail(self.log)}")

    def terminate(self) -> bool:
        """Ask the server to end as Kubernetes does, kill what stays, and say whether it went by itself.

        Raises:
            ServerError: a process of its survives even SIGKILL.
        """
        family = self.tree()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.wait(STOP_SECONDS)
        left = alive(psutil.wait_procs(family, timeout=ORPHAN_SECONDS)[1])
        for process in left:
            process.kill()
        if immortal := alive(psutil.wait_procs(left, timeout=ORPHAN_SECONDS)[1]):
            raise ServerError(f"these processes of the server could not be ended: {immortal}")
        return not left and self.process.returncode in (0, -signal.SIGTERM)


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], ready: Probe, log: Path, port: int | None = None
) -> Iterator[Server]:
    """A server that is ready to answer; it is gone when the block ends.

    Args:
        command: the program and its arguments; ``{port}`` in them is the port it has to listen on.
        environment: variables besides this process's own; ``{port}`` as above.
        ready: what answers once it is ready.
        log: file for what it prints.
        port: to listen on; a free one where it is None.

    Raises:
        ServerError: it did not start or did not go away.
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
            start_new_session=True,  # Ctrl-C ends the measurement, which then ends the server in good order
        ) as process,
    ):
        server = Server(process, port, log)
        try:
            server.wait_until_ready(ready)
            yield server
        finally:
            server.terminate()


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that still run: one that has ended stays listed until its parent, the system's for orphans, asks for it."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on.

    It is below 32768, where Linux begins to take the ports of connections that go out: until a server listens on it, no
    client of another one gets it.

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
