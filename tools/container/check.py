"""Test an image as a cluster would run it: unprivileged, with a read-only file system, stopped under load."""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eyestate.schema import FacesResponse, Verdict
from tools.container.build import Target
from tools.container.engine import Config, Engine, ImageError
from tools.harness.claims import Claim
from tools.harness.drain import drain
from tools.harness.load import run
from tools.harness.servers import PROJECT, SCRATCH, Probe, Server, running_server
from tools.harness.small_bundle import NAME as SMALL
from tools.harness.small_bundle import write_small_bundle

STARTS: Final = 5
LOAD_SECONDS: Final = 3.0
_READY: Final = Probe("/readyz")
_OPEN: Final = PROJECT / "examples" / "open.jpg"
_FACE: Final = PROJECT / "docs" / "images" / "face.jpg"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Figures for the report, and the claims about the image."""

    figures: dict[str, Any]
    claims: list[Claim]


@dataclass(frozen=True, slots=True)
class Container:
    """A running container of the image."""

    engine: Engine
    name: str
    server: Server
    seconds_to_ready: float

    def run(self, *command: str, user: str = "", stdin: str | None = None) -> str:
        """Run a program inside, by default as the image's user, and return its output.

        Raises:
            ImageError: it failed.
        """
        flags = [*(("--user", user) if user else ()), *(("--interactive",) if stdin else ())]
        return self.engine("exec", *flags, self.name, *command, stdin=stdin)

    def facts(self, user: str = "") -> dict[str, Any]:
        """The output of ``tools/container/facts.py`` run inside."""
        found: dict[str, Any] = json.loads(self.run("python", "-", user=user, stdin=_source("facts.py")))
        return found


@contextmanager
def started(
    engine: Engine, image: str, settings: Mapping[str, str], *, mounts: Mapping[Path, str], own_network: bool = True
) -> Iterator[Container]:
    """A container that is ready; only ``/tmp`` is writable, and it has no capabilities.

    Args:
        engine: container engine.
        image: its name.
        settings: environment variables in addition to the image's.
        mounts: folders to mount read-only, by their path inside.
        own_network: listen behind the engine's port forwarding; otherwise on the host's network.

    Raises:
        ImageError, ServerError: it did not start or did not stop.
    """
    name = f"eyestate-check-{os.getpid()}-{time.monotonic_ns()}"
    flags = ["--rm", "--name", name, *engine.hardening_flags()]
    flags += [part for path, place in mounts.items() for part in ("--volume", f"{path}:{place}:ro")]
    if own_network:
        flags += ["--publish", "127.0.0.1:{port}:3000"]
    else:
        settings = {**settings, "BENTOML_HOST": "127.0.0.1", "BENTOML_PORT": "{port}"}
        flags += ["--network", "host"]
    flags += [part for key, value in settings.items() for part in ("--env", f"{key}={value}")]
    begun = time.perf_counter()
    try:
        with running_server(
            [engine.name, "run", *flags, image], {}, _READY, SCRATCH / "logs" / f"{name}.log"
        ) as server:
            yield Container(engine, name, server, time.perf_counter() - begun)
    finally:
        with suppress(ImageError):  # usually it is already gone
            engine("rm", "--force", name)


def check_image(engine: Engine, image: str, target: Target) -> CheckResult:
    """Start the image, score with it, inspect it, and stop it under load.

    Args:
        engine: container engine.
        image: its name.
        target: which of the images it is.

    Raises:
        ImageError, ServerError: it does not start or stop, or a program inside fails.
    """
    config = engine.config(image)
    claims = [*_as_configured(config)]
    ready: list[float] = []
    for _ in range(STARTS - 1):
        with started(engine, image, {}, mounts={}) as container:
            ready.append(container.seconds_to_ready)
    with started(engine, image, {}, mounts={_OPEN.parent: "/crops"}) as container:
        ready.append(container.seconds_to_ready)
        claims += _scores(container, config)
        inside, as_root = container.facts(), container.facts(user="0:0")
        claims += confinement_claims(inside, as_root)
        if target == "cuda":
            claims += without_gpu(container)
    if target == "cpu":
        claims += _openvino(engine, image)
    claims += _other_models(engine, image)
    with started(engine, image, {}, mounts={}, own_network=False) as container:
        # On the host's network: port forwarding would accept connections after the service has stopped.
        drained, kept = run(drain(container.server, seconds=LOAD_SECONDS))
        claims += kept
    return CheckResult(
        {
            "seconds_to_ready": [round(seconds, 2) for seconds in ready],
            "median_seconds_to_ready": round(statistics.median(ready), 2),
            "memory_bytes": inside["memory_bytes"],
            "python_packages": inside["packages"],
            "inside": inside,
            "drain": drained,
        },
        claims,
    )


def _as_configured(config: Config) -> Iterator[Claim]:
    yield Claim("the user is numeric and not root", config.user, config.user.split(":")[0].isdecimal())
    yield Claim("it exposes port 3000", ", ".join(config.ports), config.ports == ["3000/tcp"])
    needed = ("title", "description", "version", "revision", "created", "licenses", "base.name", "base.digest")
    missing = [name for name in needed if not config.labels.get(f"org.opencontainers.image.{name}")]
    yield Claim("the image is labelled", f"missing: {', '.join(missing) or 'none'}", not missing)


def _scores(container: Container, config: Config) -> Iterator[Claim]:
    server = container.server
    verdict = Verdict.model_validate_json(server.fetch(Probe("/v1/score", _OPEN.read_bytes(), "image/jpeg")))
    yield Claim("an open eye is scored as open", f"{verdict.state}, score {verdict.score}", verdict.state == "open")
    found = FacesResponse.model_validate_json(server.fetch(Probe("/v1/faces", _FACE.read_bytes(), "image/jpeg")))
    yield Claim("it finds the face in a photo", str(len(found.faces)), len(found.faces) == 1)
    counted = 'eyestate_requests_total{route="/v1/score",status="200"} 1.0'
    metrics = server.fetch(Probe("/metrics")).decode()
    yield Claim("/metrics counts the request", counted, counted in metrics)
    kind, *command = config.health_check
    container.run(*command)
    yield Claim("the health check succeeds", kind, kind == "CMD")
    said = container.run(
        "eyestate",
        "batch",
        "/crops",
        "--endpoint",
        "http://127.0.0.1:3000",
        "--output",
        "/tmp/scores",  # noqa: S108
    )
    yield Claim("a batch job runs in it", said.strip(), said.startswith("2 rows") and "1 open, 1 closed" in said)


def confinement_claims(inside: dict[str, Any], as_root: dict[str, Any]) -> Iterator[Claim]:
    """Claims that the container's user can do no more than serve, from the output of ``tools/container/facts.py``.

    Args:
        inside: as that user.
        as_root: as root, whom only the file system itself prevents from writing.
    """
    yield Claim("it runs as 65532", f"{inside['uid']}:{inside['gid']}", inside["uid"] == inside["gid"] == 65532)
    yield Claim("it has no capabilities", inside["capabilities"], int(inside["capabilities"], 16) == 0)
    writable = [folder for folder, found in inside["writing"].items() if found == "works"]
    yield Claim("only /tmp is writable", ", ".join(writable), writable == ["/tmp"])  # noqa: S108
    refused = {found for folder, found in as_root["writing"].items() if folder != "/tmp"}  # noqa: S108
    yield Claim("the rest is read-only even for root", ", ".join(sorted(refused)), refused == {"EROFS"})
    yield Claim("it contains no compiler", ", ".join(inside["programs"]) or "none found", not inside["programs"])
    yield Claim(
        "it contains no torch, pip or training code",
        ", ".join(inside["modules"]) or "none found",
        not inside["modules"],
    )


def without_gpu(container: Container) -> Iterator[Claim]:
    """Claims about a container of the image for GPUs on a machine that has none."""
    warning = re.search(r"EYESTATE_DEVICE=cuda cannot be used[^\"]*", container.server.log.read_text())
    yield Claim("without a GPU it warns and falls back", warning.group() if warning else "nothing", bool(warning))
    missing = container.run("python", "-", stdin=_source("cuda_libraries.py")).strip().splitlines()[-1]
    yield Claim("only the driver's library is missing", missing, missing == "libcuda.so.1")


def _openvino(engine: Engine, image: str) -> Iterator[Claim]:
    with started(engine, image, {"EYESTATE_DEVICE": "openvino"}, mounts={}) as container:
        device = json.loads(container.server.fetch(_READY))["device"]
        yield Claim("EYESTATE_DEVICE=openvino selects OpenVINO", device, device.startswith("openvino"))


def _other_models(engine: Engine, image: str) -> Iterator[Claim]:
    models = write_small_bundle(SCRATCH / "models").parent
    with started(engine, image, {"EYESTATE_MODEL": SMALL}, mounts={models: "/models"}) as container:
        model = json.loads(container.server.fetch(_READY))["model"]["name"]
    yield Claim("models mounted at /models replace its own", model, model == SMALL)


def _source(name: str) -> str:
    return (Path(__file__).parent / name).read_text()
