"""The supervisor, in a process of its own with workers that do next to nothing."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

SERVE = """
import encodings.idna, os, signal, socket, sys
from eyestate.server.supervisor import Supervisor

if os.geteuid() == 0:
    os.setuid(65534)  # what it does at the end, any user may do
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))

def work(place):
    def answer_the_queue(*_):
        listening.settimeout(1)
        try:
            while True:
                connection, _ = listening.accept()
                connection.sendall(connection.recv(100))
        except TimeoutError:
            sys.exit(0)
    signal.signal(signal.SIGTERM, answer_the_queue)
    print(f"works {place}\\n", end="", flush=True)
    while True:
        signal.pause()

supervisor = Supervisor(work, 2, sockets=[listening], drain_seconds=0.2, on_death=lambda place: print("died", place))
print(supervisor.run())
"""
FAIL = """
import sys
from eyestate.server.supervisor import Supervisor
print(Supervisor(lambda _: sys.exit(3), 2, sockets=[], drain_seconds=0, on_death=print).run())
"""

WITHOUT_STREAMS = """
import os, sys
from eyestate.server.supervisor import Supervisor

out, sys.stdin, sys.stdout = os.dup(1), None, None

def work(place):
    os.write(out, b"works")
    os.kill(os.getppid(), 15)

try:
    Supervisor(work, 1, sockets=[], drain_seconds=0, on_death=print).run()
finally:
    os.write(out, b" left")  # by nobody but the supervisor
"""
SHORT_OF_PROCESSES = """
import errno, os, sys, time
from eyestate.server import supervisor

fork, failures = os.fork, [OSError(errno.EAGAIN, "too many processes")]

def fork_later():
    if failures:
        raise failures.pop()
    return fork()

def work(place):
    print("works", place, flush=True)
    os.kill(os.getppid(), 15)

os.fork, supervisor._MOST_DOUBLINGS = fork_later, 0
print(supervisor.Supervisor(work, 1, sockets=[], drain_seconds=0, on_death=print).run())
"""


def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
        return number


def until(reached: Callable[[], object], seconds: float) -> float:
    """How long it took."""
    began = time.monotonic()
    while not reached():
        assert time.monotonic() < began + seconds
        time.sleep(0.02)
    return time.monotonic() - began


@contextmanager
def supervised(number: int) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A supervisor whose two workers leave connections in the queue until they are told to stop."""
    with subprocess.Popen([sys.executable, "-c", SERVE, str(number)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert {process.stdout.readline() for _ in range(2)} == {"works 1\n", "works 2\n"}
            yield process, psutil.Process(process.pid)
        finally:
            process.kill()


def test_a_killed_worker_is_replaced_in_its_place_and_the_other_stays() -> None:
    with supervised(port()) as (process, supervisor):
        victim, other = supervisor.children()
        for _ in range(2):
            victim.kill()
            until(lambda dead=victim: len({*supervisor.children()} - {dead}) == 2, 3)  # type: ignore[misc]
            (victim,) = {*supervisor.children()} - {victim, other}
        process.send_signal(signal.SIGTERM)
        text, _ = process.communicate(timeout=20)
    assert text.count("died") == 2
    assert text.endswith("True\n")


def test_workers_end_with_their_supervisor() -> None:
    with supervised(port()) as (process, supervisor):
        workers = supervisor.children()
        process.kill()
        process.wait()
        until(lambda: not any(worker.is_running() for worker in workers), 5)


def connections_until_refused(number: int, seconds: float) -> list[socket.socket]:
    """Connect again and again, and send a byte on each connection."""
    connections = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            connections.append(socket.create_connection(("127.0.0.1", number)))
        except ConnectionRefusedError:
            return connections
        connections[-1].sendall(b"x")
        time.sleep(0.001)
    pytest.fail("connections are not refused")


def test_connections_that_the_kernel_has_taken_are_answered_and_new_ones_refused() -> None:
    """While clients go on to connect, and without any privilege."""
    number = port()
    with supervised(number) as (process, _):
        taken = [socket.create_connection(("127.0.0.1", number)) for _ in range(20)]
        for connection in taken:
            connection.sendall(b"x")
        process.send_signal(signal.SIGTERM)
        taken += connections_until_refused(number, 5)
        assert process.poll() is None
        assert process.wait(20) == 0
        for connection in taken:
            assert connection.recv(1) == b"x"
            connection.close()


def test_it_gives_up_if_the_first_worker_of_a_place_cannot_start() -> None:
    run = subprocess.run([sys.executable, "-c", FAIL], capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout.endswith("False\n")


def test_no_worker_leaves_it_where_streams_are_closed() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_STREAMS], capture_output=True, text=True, timeout=30, check=True
    )
    assert run.stdout == "works left"
    assert not run.stderr


def test_a_worker_that_cannot_be_forked_is_started_later() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SHORT_OF_PROCESSES], capture_output=True, text=True, timeout=30, check=True
    )
    assert run.stdout == "works 1\nTrue\n"
    assert "a worker cannot be started" in run.stderr
