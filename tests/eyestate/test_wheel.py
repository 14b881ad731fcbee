"""The package as `pip install` puts it down, away from the repository."""

from __future__ import annotations

import os
import shlex
import ssl
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest

from eyestate import __version__
from tests.bundles import write_bundle
from tests.service.conftest import wait_until_ready
from tools.harness.servers import free_port

PROJECT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
MAIN = "from eyestate.cli import main; main()"
OPEN = (PROJECT / "examples" / "open.jpg").read_bytes()
EXAMPLES = [str(PROJECT / "examples" / f"{state}.jpg") for state in ("closed", "open")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(PROJECT)]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder with the wheel's content and nothing else."""
    site = wheel.parent / "site"
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    return site


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for server and client, which is its own CA, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = shlex.split(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
    )
    files = ["-keyout", "key.pem", "-out", "cert.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *files], cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def run(installed: Path, cwd: Path, *arguments: str, models: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EYESTATE_")}
    environment |= {"PYTHONPATH": str(installed)} | ({"EYESTATE_MODELS": str(models)} if models else {})
    command = [sys.executable, "-P", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def score(installed: Path, cwd: Path, models: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run(installed, cwd, "-c", MAIN, "score", *EXAMPLES, "--format", "csv", models=models)


def test_it_says_where_to_get_the_model(installed: Path, tmp_path: Path) -> None:
    done = score(installed, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: there is no model 'cascade': {tmp_path / 'models'} holds no models.")
    assert f"unpack eyestate-models-{__version__}.tar.gz of its release here" in done.stderr
    assert "set EYESTATE_MODELS" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_scores_with_models_that_are_named_or_lie_in_the_working_directory(installed: Path, tmp_path: Path) -> None:
    done = score(installed, tmp_path, models=PROJECT / "models")
    assert (done.returncode, done.stdout.count("\n")) == (0, 3), done.stderr
    (tmp_path / "models").symlink_to(PROJECT / "models")
    assert score(installed, tmp_path).stdout == done.stdout


def test_it_serves_https_from_a_folder_with_models_to_clients_with_a_certificate(
    installed: Path, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    write_bundle(tmp_path / "models")
    cert, key = certificate
    context = ssl.create_default_context(cafile=cert)
    port, log = free_port(), tmp_path / "log"
    options = ["--port", str(port), "--model", "brightness", "--drain", "0"]
    tls = ["--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(cert)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EYESTATE_", "BENTOML_"))}
    environment |= {"PYTHONPATH": str(installed), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-P", "-c", MAIN, "serve", *options, *tls]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            with pytest.raises(httpx.TransportError):
                httpx.get(f"https://127.0.0.1:{port}/readyz", verify=context)
            context.load_cert_chain(cert, key)
            wait_until_ready(process, f"https://127.0.0.1:{port}", log, verify=context)
            white = httpx.post(f"https://127.0.0.1:{port}/v1/score", content=OPEN, verify=context)
            assert white.json()["model"]["name"] == "brightness"
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert "Traceback" not in log.read_text()
    assert not list(tmp_path.glob("eyestate-*")), "the folder of BentoML's files is left behind"


def test_it_holds_the_runtime_and_training_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"eyestate", "training", f"eyestate-{__version__}.dist-info"}
    for name in (
        "eyestate/py.typed",
        "eyestate/server/service.py",
        "eyestate/server/pages/try.html",
        f"eyestate-{__version__}.dist-info/licenses/LICENSE",
        f"eyestate-{__version__}.dist-info/entry_points.txt",
    ):
        assert name in names
    there = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "eyestate").rglob("*") if path.is_file()}
    assert {name for name in names if name.startswith("eyestate/")} == {
        name for name in there if "__pycache__" not in name
    }
    suffixes = {Path(name).suffix for name in names if name.startswith("training/")}
    assert suffixes <= {".css", ".html", ".js", ".md", ".py"}, "data"


def test_it_is_the_wheel_that_was_tested(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "-c", "import eyestate; print(eyestate.__file__)")
    assert Path(done.stdout.strip()) == installed / "eyestate" / "__init__.py"
