"""The container engine of this machine: docker or podman, or buildah for builds only."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal

import click

PROJECT: Final = Path(__file__).parents[2]
_CHUNK: Final = 2**20
_PROCESSES: Final = 4_096  # and threads, of the container's user
_GZIP: Final = 16 + zlib.MAX_WBITS


class ImageError(click.ClickException):
    """The image cannot be built or tested; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Config:
    """Configuration of an image."""

    user: str
    environment: dict[str, str]
    entrypoint: list[str]
    health_check: list[str]
    labels: dict[str, str]
    ports: list[str]
    bytes: int


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine, by the name of its command."""

    name: Literal["docker", "podman", "buildah"]

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a command of the engine and return its output.

        Raises:
            ImageError: it failed; the message ends with the engine's.
        """
        done = subprocess.run([self.name, *arguments], cwd=PROJECT, input=stdin, capture_output=True, text=True)  # noqa: S603, PLW1510
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ImageError(f"`{self.name} {arguments[0]}` failed: {last}")
        return done.stdout

    def build(self, *arguments: str) -> None:
        """Build the project's Dockerfile; its output goes to this process's.

        Raises:
            ImageError: it failed.
        """
        # Chroot isolation also works inside a container; the OCI format has no health check.
        isolation = () if self.name == "docker" else ("--isolation", "chroot", "--format", "docker", "--layers")
        if subprocess.run([self.name, "build", *isolation, *arguments, "."], cwd=PROJECT).returncode:  # noqa: S603, PLW1510
            raise ImageError(f"`{self.name} build` failed; its output above says why")

    def config(self, image: str) -> Config:
        """Configuration of an image.

        Raises:
            ImageError: there is no such image.
        """
        found = json.loads(self("image", "inspect", image))[0]
        config = found["Config"]
        health = config.get("Healthcheck") or found["Healthcheck"]  # podman has it one level higher
        return Config(
            user=config["User"],
            environment=dict(variable.split("=", 1) for variable in config["Env"]),
            entrypoint=config["Entrypoint"],
            health_check=health["Test"],
            labels=config["Labels"],
            ports=list(config["ExposedPorts"]),
            bytes=found["Size"],
        )

    def hardening_flags(self) -> list[str]:
        """Flags for ``run`` that impose Kubernetes' restricted profile with a read-only root file system."""
        flags = ["--read-only", "--tmpfs", "/tmp:rw,mode=1777", "--cap-drop", "ALL"]  # noqa: S108
        flags += ["--security-opt", "no-new-privileges"]
        if self.name == "podman":
            flags += ["--read-only-tmpfs=false"]  # otherwise it makes more of the file system writable
            if shutil.which("runc"):
                flags += ["--runtime", "runc"]  # crun does not support hosts with both cgroup versions
            # Inside a container podman cannot raise these limits beyond its own, but tries to by default.
            files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            flags += ["--ulimit", f"nofile={files}:{files}", "--ulimit", f"nproc={_PROCESSES}:{_PROCESSES}"]
        return flags

    def compressed_bytes(self, image: str) -> int:
        """Size of the image as a registry transfers it: its layers, gzipped."""
        compressor, size = zlib.compressobj(6, wbits=_GZIP), 0
        with self._output("image", "save", image) as output:
            while chunk := output.read(_CHUNK):
                size += len(compressor.compress(chunk))
        return size + len(compressor.flush())

    def save(self, image: str, archive: Path) -> None:
        """Write an image to a file that docker and podman can load.

        Raises:
            ImageError: it failed.
        """
        if self.name == "buildah":
            self("push", image, f"docker-archive:{archive}:{image}")
        else:
            self("image", "save", "--output", str(archive), image)

    def extract(self, image: str, folder: Path, wanted: Callable[[str], bool]) -> None:
        """Copy files of an image into a folder.

        Args:
            image: its name.
            folder: destination; files keep their paths.
            wanted: selects files by path, without a leading slash.
        """
        container = self("create", image).strip().splitlines()[-1]
        try:
            with self._output("export", container) as output, tarfile.open(fileobj=output, mode="r|") as archive:
                for member in archive:
                    if member.isfile() and wanted(member.name):
                        archive.extract(member, folder, filter="data")
        finally:
            self("rm", container)

    @contextmanager
    def _output(self, *arguments: str) -> Iterator[IO[bytes]]:
        with subprocess.Popen([self.name, *arguments], stdout=subprocess.PIPE) as process:  # noqa: S603
            assert process.stdout is not None
            yield process.stdout
            process.stdout.read()
        if process.returncode:
            raise ImageError(f"`{self.name} {arguments[0]}` failed")


def builder() -> Engine:
    """Docker or podman if one works, otherwise buildah.

    Raises:
        ImageError: there is none.
    """
    engine = _running() or (Engine("buildah") if shutil.which("buildah") else None)
    if engine is None:
        raise ImageError("no working docker, podman or buildah: start docker, or install buildah")
    return engine


def runner() -> Engine:
    """Docker or podman, whichever works.

    Raises:
        ImageError: neither does.
    """
    engine = _running()
    if engine is None:
        raise ImageError("no engine to run the image: start docker, or `apt-get install podman runc` as root")
    return engine


def _running() -> Engine | None:
    for engine in (Engine("docker"), Engine("podman")):
        if shutil.which(engine.name) and _works([engine.name, "info"]):
            return engine
    return None


def _works(command: Sequence[str]) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0  # noqa: S603, PLW1510


def config_summary(config: Config) -> dict[str, Any]:
    """The configuration for a report, without what changes from build to build."""
    return {
        "user": config.user,
        "entrypoint": config.entrypoint,
        "ports": config.ports,
        "environment": config.environment,
        "health_check": config.health_check,
        "labels": config.labels,
    }
