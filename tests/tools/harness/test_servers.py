from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools.harness import servers
from tools.harness.servers import Probe, ServerError, running_server

SERVE = (sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1")
# A parent with a child that ignores SIGTERM.
IGNORES_SIGTERM = """
import http.server, signal, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"])
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""
WRITES_A_VARIABLE = """
import http.server, os, pathlib, sys
pathlib.Path(sys.argv[2]).write_text(os.environ["WHERE"])
http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind="127.0.0.1")
"""


def test_server_runs_and_is_stopped(tmp_path: Path) -> None:
    with running_server(SERVE, {}, Probe("/"), tmp_path / "logs" / "log") as server:
        assert server.process.poll() is None
        memory = server.memory()
        assert 0 < memory.anonymous <= memory.rss
        assert 0 < memory.pss <= memory.rss
    assert server.process.poll() is not None
    assert server.processes() == []


def test_remaining_children_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "ORPHAN_SECONDS", 0.5)
    command = (sys.executable, "-c", IGNORES_SIGTERM, "{port}")
    with running_server(command, {}, Probe("/"), tmp_path / "log") as server:
        parent, child = server.processes()
        assert not server.terminate()
    assert servers.still_running([parent, child]) == []


def test_port_is_substituted_in_command_and_environment(tmp_path: Path) -> None:
    command = (sys.executable, "-c", WRITES_A_VARIABLE, "{port}", str(tmp_path / "seen"))
    with running_server(command, {"WHERE": "on {port}"}, Probe("/"), tmp_path / "log") as server:
        assert (tmp_path / "seen").read_text() == f"on {server.port}"


def test_server_that_exits_at_startup_is_an_error(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit('no model here')")
    with (
        pytest.raises(ServerError, match="no model here"),
        running_server(command, {}, Probe("/"), tmp_path / "log"),
    ):
        pytest.fail("it is not ready")
