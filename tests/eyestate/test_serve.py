"""What `eyestate serve` says before a worker starts. What it serves is tested where the wheel is: test_wheel.py."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from eyestate.cli import main
from eyestate.settings import PREFIX, Settings
from tools.harness.servers import free_port


def refused(*arguments: str | Path) -> str:
    """The message with which the command ends; it is one line, below the usage if that was wrong."""
    result = CliRunner().invoke(main, ["serve", "--port", str(free_port()), *map(str, arguments)])
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    *usage, message = result.output.splitlines()
    assert all(line == "" or line.startswith(("Usage: ", "Try ")) for line in usage)
    return message


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate and its key, which has a passphrase."""
    folder = tmp_path_factory.mktemp("tls")
    command = shlex.split("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=localhost")
    files = ["-keyout", "key.pem", "-out", "cert.pem", "-passout", "pass:secret"]
    subprocess.run([*command, *files], cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_help_names_every_setting_with_its_variable_and_default() -> None:
    text = " ".join(CliRunner().invoke(main, ["serve", "--help"]).output.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} VALUE" in text
        default = f"; default: {field.default}" if field.default not in (None, ()) else ""
        assert f"[${PREFIX}{name.upper()}{default}]" in text
    for variable in ("BENTOML_HOST", "BENTOML_PORT", "EYESTATE_MODEL", "EYESTATE_MODELS"):
        assert f"${variable}; default: " in text


def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert refused("--port", str(port)) == f"Error: port {port} is in use; choose another with --port"


def test_an_address_of_another_computer_and_a_name_of_none() -> None:
    assert refused("--host", "192.0.2.1").startswith("Error: cannot listen on 192.0.2.1, port ")
    assert "'nowhere.invalid' is no address or name of this computer" in refused("--host", "nowhere.invalid")


def test_tls_files_that_cannot_be_used(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    empty = tmp_path / "empty.pem"
    empty.touch()
    assert refused("--tls-key", key) == "Error: --tls-key and --tls-client-ca need --tls-cert"
    assert refused("--tls-cert", cert, "--tls-key", key).startswith("Error: the private key has a passphrase")
    assert f"{cert} is no certificate with its private key" in refused("--tls-cert", cert)
    assert f"{cert} and {empty} are no certificate" in refused("--tls-cert", cert, "--tls-key", empty)
    assert "does not exist" in refused("--tls-cert", tmp_path / "none.pem")


@pytest.mark.parametrize(("package", "extra"), [("starlette", "serve"), ("onnxruntime", "cpu")])
def test_an_extra_that_is_not_installed(package: str, extra: str) -> None:
    code = f"import sys; sys.modules['{package}'] = None; from eyestate.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", "3999"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == f"Error: {package} is not installed; install it with: pip install 'eyestate[{extra}]'\n"
    assert done.returncode == 1
