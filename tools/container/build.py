"""Build the image of a target, labelled with what it was built from."""

from __future__ import annotations

import os
import subprocess
from typing import Final, Literal, get_args

from eyestate import __version__
from tools.container.base import Base
from tools.container.engine import PROJECT, Engine

Target = Literal["cpu", "cuda"]
TARGETS: Final = get_args(Target)


def tag(target: Target) -> str:
    """The name of the image: ``eyestate:VERSION-TARGET``."""
    return f"eyestate:{__version__}-{target}"


def build(engine: Engine, target: Target, base: Base | None = None) -> str:
    """Build the image and return its name.

    Args:
        engine: the builder.
        target: which image.
        base: base image; the Dockerfile's if None.

    Raises:
        ImageError: the build failed.
    """
    arguments = ["--target", target, "--tag", tag(target), *(base.arguments if base else [])]
    for name, value in labels().items():
        arguments += ["--label", f"org.opencontainers.image.{name}={value}"]
    if certificates := os.environ.get("PIP_CERT"):
        arguments += ["--secret", f"id=ca,src={certificates}"]
    engine.build(*arguments)
    return tag(target)


def labels() -> dict[str, str]:
    """OCI annotations that differ between builds: version, revision, time of the commit, source."""
    revision = _git("rev-parse", "HEAD")
    found = {
        "version": __version__,
        "revision": f"{revision}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else revision,
        "created": _git("show", "--no-patch", "--format=%cI", "HEAD"),
        "source": _source(),
    }
    return {name: value for name, value in found.items() if value}


def _source() -> str:
    """The repository's URL if it is public (https)."""
    origin = _git("config", "--default", "", "--get", "remote.origin.url")
    return origin.removesuffix(".git") if origin.startswith("https://") else ""


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True).stdout.strip()  # noqa: S603, S607, PLW1510
