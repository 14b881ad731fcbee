"""What the kubelet does with a container, done on this machine: its command, its environment, its probes, its end.

The image is the `Dockerfile`'s. Its folders are mapped to this checkout and its environment, and its port to a free one
of the loopback interface; nothing else of what the manifest says is changed.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import psutil
import pytest

from tests.k8s.manifests import Manifest, only
from tests.k8s.tools import PROJECT
from tools.harness.servers import free_port

_VARIABLE: Final = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@dataclass(frozen=True, slots=True)
class Image:
    """What the Dockerfile says of how a container of a target starts."""

    entrypoint: tuple[str, ...]
    environment: dict[str, str]

    @staticmethod
    def of(target: str) -> Image:
        """The image of a target, with what its stages inherit from one another."""
        stages: dict[str, Image] = {}
        name, image = "", Image((), {})
        text = re.sub(r"^\s*#.*\n", "", (PROJECT / "Dockerfile").read_text(), flags=re.MULTILINE)
        for line in text.replace("\\\n", " ").splitlines():
            instruction, _, rest = line.strip().partition(" ")
            if instruction == "FROM":
                source, _, name = rest.split()
                image = stages.get(source, Image((), {}))
            elif instruction == "ENV":
                pairs = dict(word.split("=", 1) for word in shlex.split(rest))
                image = Image(image.entrypoint, image.environment | pairs)
            elif instruction == "ENTRYPOINT":
                image = Image(tuple(json.loads(rest)), image.environment)
            stages[name] = image
        return stages[target]


class Container:
    """A container of a rendered manifest, ready to be run here."""

    def __init__(self, objects: Sequence[Manifest], spec: Manifest, folder: Path, secrets: Mapping[str, str]) -> None:
        """Args:
        objects: what was rendered together, the ConfigMaps among it.
        spec: the pod's.
        folder: where its volumes are made.
        secrets: those that the cluster has: the content of `NAME/KEY`.
        """
        self.pod = spec
        (self.spec,) = spec["containers"]
        self.port = free_port()
        self._secrets = dict(secrets)
        self._folders = {"/app": str(PROJECT), "/models": str(PROJECT / "models")}
        self._folders |= dict.fromkeys(("/app/bin", "/opt/eyestate/bin"), str(Path(sys.executable).parent))
        for mount in self.spec["volumeMounts"]:
            volume = folder / mount["name"]
            volume.mkdir(exist_ok=True)
            self._folders[mount["mountPath"]] = str(volume)
        self._secret_volumes = {
            volume["secret"]["secretName"]: folder / volume["name"] for volume in spec["volumes"] if "secret" in volume
        }
        for name, content in secrets.items():
            self.change_secret(name, content)
        image = Image.of("cpu")
        variables = image.environment | self._variables(objects)
        self.environment = {name: self._here(value) for name, value in variables.items()}
        self.environment["PATH"] = self.environment["PATH"].replace("$PATH", "/usr/bin:/bin")
        if "BENTOML_HOST" in self.environment:
            self.environment |= {"BENTOML_HOST": "127.0.0.1", "BENTOML_PORT": str(self.port)}
        words = [*self.spec.get("command", image.entrypoint), *self.spec.get("args", ())]
        self._words = [self._here(word) for word in words]

    def change_secret(self, name: str, content: str) -> None:
        """Set `NAME/KEY` of a Secret; the volume that shows it follows at once, by a link that is replaced."""
        secret, _, key = name.partition("/")
        if secret in self._secret_volumes:
            volume = self._secret_volumes[secret]
            version = volume / f"..{time.monotonic_ns()}"
            version.mkdir()
            (version / key).write_text(content)
            (volume / "..new").symlink_to(version.name)
            (volume / "..new").rename(volume / "..data")
            if not (volume / key).is_symlink():
                (volume / key).symlink_to(Path("..data") / key)

    @property
    def command(self) -> list[str]:
        """The program and its arguments, with `$(NAME)` replaced by the variable."""
        return [_VARIABLE.sub(lambda name: self.environment.get(name[1], name[0]), word) for word in self._words]

    def folder(self, mount: str) -> Path:
        """Where a path of the container is on this machine."""
        return Path(self._folders[mount])

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        """Start the command, with the image's and the manifest's environment and no other."""
        with log.open("wb") as output:
            return subprocess.Popen(
                self.command, cwd=PROJECT, env=self.environment, stdout=output, stderr=subprocess.STDOUT
            )

    def probe(self, name: str) -> bool:
        """Do a probe once: whether it succeeds."""
        probe = self.spec[name]
        ports = {port["name"]: port["containerPort"] for port in self.spec["ports"]}
        assert ports.get(probe["httpGet"]["port"], probe["httpGet"]["port"]) == 3000  # where the image listens
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{self.port}{probe['httpGet']['path']}", timeout=probe["timeoutSeconds"]
            )
        except httpx.TransportError:
            return False
        return 200 <= answer.status_code < 400

    def _variables(self, objects: Sequence[Manifest]) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in self.spec.get("envFrom", ()):
            found |= only(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
        for variable in self.spec.get("env", ()):
            if "value" in variable:
                found[variable["name"]] = variable["value"]
                continue
            reference = variable["valueFrom"]["secretKeyRef"]
            secret = f"{reference['name']}/{reference['key']}"
            if secret in self._secrets or not reference.get("optional"):
                found[variable["name"]] = self._secrets[secret]
        return found

    def _here(self, text: str) -> str:
        there = "|".join(sorted(map(re.escape, self._folders), key=len, reverse=True))
        return re.sub(rf"(?<![\w/.])({there})(?![\w-])", lambda path: self._folders[path[1]], text)


@contextmanager
def running(container: Container, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A container whose startup probe has succeeded; it is gone when the block ends."""
    probe = container.spec["startupProbe"]
    with container.start(log) as process:
        try:
            failures = 0
            while not container.probe("startupProbe"):
                failures += 1
                if failures == probe["failureThreshold"] or process.poll() is not None:
                    pytest.fail(f"the container did not start:\n{log.read_text()}")
                time.sleep(probe["periodSeconds"])
            yield process
        finally:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
