"""Software bills of materials as CycloneDX: cyclonedx-py lists the Python packages, this module what it cannot know.

That is Debian's packages, an interpreter that was built from source, and the models.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from eyestate import __version__
from eyestate.atomic import write_atomically
from eyestate.bundle import Bundle, load_model
from eyestate.mtcnn import DESCRIPTION, Description
from tools.container.engine import Config, Engine, ImageError

_STATUS: Final = "var/lib/dpkg/status"
_RELEASE: Final = "usr/lib/os-release"
_METADATA: Final = ".dist-info/METADATA"


def is_relevant(path: str) -> bool:
    """Whether the SBOM is derived from a file of the image, by its path without a leading slash."""
    return path in (_STATUS, _RELEASE) or path.startswith("models/") or path.endswith(_METADATA)


def image_bom(root: Path, name: str, config: Config) -> Bom:
    """The contents of an image: Python and its packages, Debian's packages, the models.

    Args:
        root: the files of the image that are ``is_relevant``, at their paths.
        name: of the image, ``name:tag``.
        config: of the image.
    """
    repository, _, version = name.partition(":")
    image = Component(
        type=ComponentType.CONTAINER,
        name=repository,
        version=version,
        bom_ref="image",
        licenses=_spdx([config.labels.get("org.opencontainers.image.licenses", "")]),
        properties=[Property(name=key, value=value) for key, value in config.labels.items() if value],
    )
    others = [*_interpreter(config), *_debian_packages(root), *_models(root / "models")]
    return _completed(_installed(root), image, others)


def release_bom(requirements: Path, models: Path) -> Bom:
    """What a wheel or a bento is served with: the pinned packages, and the models.

    Args:
        requirements: the pins.
        models: the folder of the models.
    """
    release = Component(
        type=ComponentType.APPLICATION,
        name="eyestate",
        version=__version__,
        bom_ref="release",
        licenses=_spdx(["Apache-2.0"]),
    )
    return _completed(_cyclonedx("requirements", str(requirements)), release, list(_models(models)))


def write_image_bom(engine: Engine, image: str, folder: Path) -> Path:
    """Write the SBOM of an image to a folder, and return the file.

    Raises:
        ImageError: there is no such image, or the SBOM violates the schema.
    """
    path = folder / f"{image.replace(':', '-')}.cdx.json"
    with tempfile.TemporaryDirectory() as root:
        engine.extract(image, Path(root), is_relevant)
        write_bom(image_bom(Path(root), image, engine.config(image)), path)
    return path


def write_bom(bom: Bom, path: Path) -> None:
    """Write the SBOM as JSON after validating it.

    Raises:
        ImageError: it violates the schema.
    """
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ImageError(f"the SBOM violates the schema of CycloneDX 1.6: {fault}")
    write_atomically(path, text + "\n")


def _completed(bom: Bom, subject: Component, others: Iterable[Component]) -> Bom:
    """A bill with its subject, which depends on all in it."""
    bom.metadata.component = subject
    bom.components.update(others)
    bom.register_dependency(subject, bom.components)
    return bom


def _installed(root: Path) -> Bom:
    """The Python packages whose metadata lie below a folder, as if they were installed in one environment."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, symlinks=True)
        (packages,) = Path(folder).glob("lib/python3*/site-packages")
        for metadata in root.rglob(f"*{_METADATA}"):
            shutil.copytree(metadata.parent, packages / metadata.parent.name)
        return _cyclonedx("environment", folder)


def _cyclonedx(*arguments: str) -> Bom:
    """What cyclonedx-py finds.

    Raises:
        ImageError: it fails; the message ends with its own.
    """
    command = [
        sys.executable,
        "-m",
        "cyclonedx_py",
        *arguments,
        "--output-reproducible",
        "--no-validate",
        "--sv",
        "1.6",
    ]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603, PLW1510
    if done.returncode:
        raise ImageError(f"cyclonedx-py failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    bom: Bom = Bom.from_json(json.loads(done.stdout))  # type: ignore[attr-defined]
    return bom


def _spdx(declared: Iterable[str]) -> list[License]:
    factory = LicenseFactory()
    return [
        factory.make_from_string(one, license_acknowledgement=LicenseAcknowledgement.DECLARED)
        for one in declared
        if one
    ]


def _interpreter(config: Config) -> list[Component]:
    """Python if the base image built it from source; otherwise it is among Debian's packages."""
    version = config.environment.get("PYTHON_VERSION")
    if version is None:
        return []
    return [
        Component(
            type=ComponentType.PLATFORM,
            name="python",
            version=version,
            bom_ref=f"python-{version}",
            purl=PackageURL("generic", None, "python", version),
            cpe=f"cpe:2.3:a:python:python:{version}:*:*:*:*:*:*:*",
            licenses=_spdx(["PSF-2.0"]),
        )
    ]


def _debian_packages(root: Path) -> Iterator[Component]:
    release = dict(line.split("=", 1) for line in (root / _RELEASE).read_text().splitlines() if "=" in line)
    distribution = f"debian-{release['VERSION_ID'].strip(chr(34))}"
    for paragraph in (root / _STATUS).read_text().strip().split("\n\n"):
        package = HeaderParser().parsestr(paragraph)
        if not package["Status"].endswith(" installed"):
            continue
        name, version = package["Package"], package["Version"]
        # Debian's security notices refer to source packages.
        source = (package["Source"] or name).split(" ")[0]
        qualifiers = {"arch": package["Architecture"], "distro": distribution, "upstream": source}
        yield Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=version,
            bom_ref=f"deb:{name}:{package['Architecture']}={version}",
            description=package["Description"].splitlines()[0],
            supplier=OrganizationalEntity(name=package["Maintainer"]),
            purl=PackageURL("deb", "debian", name, version, qualifiers),
        )


def _models(folder: Path) -> Iterator[Component]:
    for path in sorted(folder.glob("*/manifest.json")):
        model = load_model(path.parent)
        manifest = model.manifest
        if isinstance(model, Bundle):
            training = model.manifest.training
            what = training.architecture
            data = [Property(name="eyestate:training-data", value=source.name) for source in training.data]
        else:
            what = f"a cascade of {model.small.manifest.name} and {model.large.manifest.name}"
            data = []
        yield Component(
            type=ComponentType.MACHINE_LEARNING_MODEL,
            name=manifest.name,
            version=manifest.version,
            bom_ref=f"model:{manifest.name}",
            description=f"{what}, {' or '.join(manifest.classes)} eye",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=manifest.sha256)],
            properties=data,
        )
    for path in sorted(folder.glob(f"*/{DESCRIPTION}")):
        detector = Description.model_validate_json(path.read_bytes())
        for network in detector.networks:
            with (path.parent / f"{network}.onnx").open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            yield Component(
                type=ComponentType.MACHINE_LEARNING_MODEL,
                name=f"{detector.name}-{network}",
                version=detector.version,
                bom_ref=f"model:{detector.name}-{network}",
                description=f"face detector; {detector.source}",
                licenses=_spdx([detector.licence]),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=content)],
            )
