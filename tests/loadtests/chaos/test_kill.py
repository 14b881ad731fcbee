from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from loadtests.chaos.kill import connection_owner, kill_worker, worker_processes
from tools.harness.load import Connection
from tools.harness.servers import Probe, Server, ServerError, running_server

SERVE = (sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1")


def test_killed_workers_connections_are_returned(tmp_path: Path) -> None:
    async def connected(server: Server) -> None:
        connection = await Connection.open(server.port)
        await asyncio.sleep(0.2)
        assert await asyncio.to_thread(connection_owner, server, connection.local_port) == server.process.pid
        ports = kill_worker(psutil.Process(server.process.pid), server.port)
        assert connection.local_port in ports
        connection.close()

    with running_server(SERVE, {}, Probe("/"), tmp_path / "log") as server:
        asyncio.run(connected(server))
        server.process.wait(5)
        assert server.process.returncode == -9


def test_wrong_number_of_workers_is_an_error(tmp_path: Path) -> None:
    with (
        running_server(SERVE, {}, Probe("/"), tmp_path / "log") as server,
        pytest.raises(ServerError, match="0 workers, not 2"),
    ):
        worker_processes(server, 2)


def test_unknown_connection_has_no_owner(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"]) as process:
        try:
            assert connection_owner(Server(process, 1, tmp_path / "log"), 1) is None
        finally:
            process.kill()
