"""The base image: the pinned one, or a locally made Debian if no registry can be reached."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from tools.container.engine import PROJECT, Engine, ImageError

DEBIAN: Final = "localhost/eyestate-base:bookworm"
_PACKAGES: Final = "ca-certificates,python3,python3-venv"
_NEEDLESS: Final = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt/lists")


@dataclass(frozen=True, slots=True)
class Base:
    """A base image."""

    name: str
    digest: str

    @property
    def arguments(self) -> list[str]:
        """Build flags that select it."""
        reference = self.name if self.name.startswith("localhost/") else f"{self.name}@{self.digest}"
        values = {"BASE": reference, "BASE_NAME": self.name, "BASE_DIGEST": self.digest}
        return [part for key, value in values.items() for part in ("--build-arg", f"{key}={value}")]


def pinned() -> Base:
    """The base that the Dockerfile pins."""
    recipe = (PROJECT / "Dockerfile").read_text()
    values = dict(re.findall(r"^ARG (BASE_\w+)=(\S+)$", recipe, re.MULTILINE))
    return Base(values["BASE_NAME"], values["BASE_DIGEST"])


def available_base(engine: Engine) -> Base:
    """The pinned base if its registry can be reached, otherwise a Debian of the same release.

    Raises:
        ImageError: neither is available.
    """
    base = pinned()
    try:
        engine("pull", f"{base.name}@{base.digest}")
    except ImageError as error:
        why = error.message.rpartition(": ")[2]
        click.echo(f"The pinned base cannot be pulled ({why}); using a Debian bookworm made by debootstrap.")
        return debian(engine)
    return base


def debian(engine: Engine) -> Base:
    """Debian bookworm with its Python 3.11, made once by debootstrap and kept by the engine.

    Raises:
        ImageError: debootstrap is missing or fails, or the user is not root.
    """
    try:
        engine("image", "inspect", DEBIAN)
    except ImageError:
        _make_debian(engine)
    found = json.loads(engine("image", "inspect", DEBIAN))[0]
    return Base(DEBIAN, found.get("Digest") or found["Id"])


def _make_debian(engine: Engine) -> None:
    if not shutil.which("debootstrap") or os.geteuid():
        raise ImageError(
            "without a registry, making the base requires root and debootstrap: `apt-get install debootstrap`"
        )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root), *_mirror()]
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603, PLW1510
        if done.returncode:
            raise ImageError(f"debootstrap failed: {(done.stdout.strip().splitlines() or ['no reason given'])[-1]}")
        for path in _NEEDLESS:
            shutil.rmtree(root / path, ignore_errors=True)
        archive = Path(folder) / "base.tar"
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)  # noqa: S603, S607
        engine("import", str(archive), DEBIAN)


def _mirror() -> list[str]:
    """The mirror that apt uses; debootstrap's default if this machine is not Debian bookworm."""
    if not shutil.which("apt-get"):
        return []
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: bookworm", "Identifier: Packages"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[:1]  # noqa: S603
