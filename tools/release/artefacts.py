"""The files of a release, each made in a folder that it is given."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from eyestate import __version__
from tools.container import base, sbom
from tools.container.build import Target, build
from tools.container.engine import PROJECT, ImageError, builder
from tools.release.changelog import ReleaseError

CHECKSUMS: Final = "SHA256SUMS"


def packages(folder: Path) -> None:
    """The wheel and the source distribution."""
    _run(sys.executable, "-m", "hatchling", "build", "--directory", str(folder))


def models(folder: Path) -> None:
    """The models, which the wheel does not contain: unpacked, they are a folder ``models/``."""
    _run("git", "archive", "--output", str(folder / f"eyestate-models-{__version__}.tar.gz"), "HEAD", "models")


def bento(folder: Path) -> None:
    """The bento, for ``bentoml import``."""
    with tempfile.TemporaryDirectory() as home:
        environment = {"BENTOML_HOME": home, "BENTOML_DO_NOT_TRACK": "True"}
        bentoml = (sys.executable, "-m", "bentoml")
        _run(*bentoml, "build", "--version", __version__, "--output", "tag", environment=environment)
        name = f"eyestate-service-{__version__}.bento"
        _run(*bentoml, "export", f"eyestate-service:{__version__}", str(folder / name), environment=environment)


def bill(folder: Path) -> None:
    """The SBOM of what wheel and bento are served with."""
    found = sbom.release_bom(PROJECT / "requirements" / "serve.txt", PROJECT / "models")
    sbom.write_bom(found, folder / f"eyestate-{__version__}.cdx.json")


def image(folder: Path, target: Target) -> str | None:
    """The image of a target, for ``docker load``, and its SBOM.

    Returns:
        Why it was left out; None if it was not.

    Raises:
        ImageError: the build failed.
    """
    try:
        engine = builder()
        found = base.available_base(engine)
    except ImageError as error:
        return error.message
    name = build(engine, target, found)
    archive = folder / f"eyestate-image-{__version__}-{target}.tar"
    engine.save(name, archive)
    with archive.open("rb") as content, gzip.GzipFile(f"{archive}.gz", "wb", 6, mtime=0) as compressed:
        shutil.copyfileobj(content, compressed)
    archive.unlink()
    if engine.name == "buildah":
        return "its SBOM, for which buildah is not enough: install docker or podman"
    sbom.write_image_bom(engine, name, folder)
    return None


def checksums(folder: Path) -> Path:
    """Write the SHA-256 of every file as ``sha256sum --check`` reads them, and return the file."""
    lines = []
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    written = folder / CHECKSUMS
    written.write_text("".join(lines))
    return written


def check_clean(project: Path = PROJECT) -> None:
    """See that what is released is what is committed.

    Raises:
        ReleaseError: there are changes.
    """
    changed = _git(project, "status", "--porcelain").splitlines()
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ReleaseError(f"the tree has changes that are not committed: {changed[0][3:]}{more}")


def _git(project: Path, *arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], cwd=project, text=True)  # noqa: S603, S607


def _run(*command: str, environment: Mapping[str, str] = {}) -> None:
    """Run a command of which nothing is shown unless it fails; archives have the time of the commit."""
    epoch = {"SOURCE_DATE_EPOCH": _git(PROJECT, "show", "--no-patch", "--format=%ct", "HEAD").strip()}
    done = subprocess.run(  # noqa: S603, PLW1510
        command, cwd=PROJECT, env={**os.environ, **epoch, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise ReleaseError(f"`{' '.join(command[:4])} …` failed:\n{done.stdout}{done.stderr}")


def sizes(folder: Path) -> Iterable[tuple[str, int]]:
    """The files of a folder with their sizes in bytes."""
    return [(path.name, path.stat().st_size) for path in sorted(folder.iterdir())]
