"""The software bill of materials of an image, read from its files, as CycloneDX."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from importlib.metadata import Distribution, distributions
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
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from eyestate.atomic import write_atomically
from eyestate.bundle import Bundle, load_model
from eyestate.mtcnn import DESCRIPTION, Description
from tools.container.engine import Config, ImageError

_STATUS: Final = "var/lib/dpkg/status"
_RELEASE: Final = "usr/lib/os-release"
_METADATA: Final = ".dist-info/METADATA"
_LONGEST_NAME: Final = 100  # characters; anything longer is a licence's full text


def is_relevant(path: str) -> bool:
    """Whether the SBOM is derived from a file of the image, by its path without a leading slash."""
    return path in (_STATUS, _RELEASE) or path.startswith("models/") or path.endswith(_METADATA)


def build_bom(root: Path, name: str, config: Config) -> Bom:
    """The contents of an image: Python and its packages, Debian's packages, the models.

    Args:
        root: the files of the image that are ``is_relevant``, at their paths.
        name: of the image, ``name:tag``.
        config: of the image.
    """
    bom = Bom()
    repository, _, version = name.partition(":")
    image = Component(
        type=ComponentType.CONTAINER,
        name=repository,
        version=version,
        bom_ref="image",
        licenses=_spdx([config.labels.get("org.opencontainers.image.licenses", "")]),
        properties=[Property(name=key, value=value) for key, value in config.labels.items() if value],
    )
    bom.metadata.component = image
    python = _python_packages(root)
    others = [*_interpreter(config), *_debian_packages(root), *_models(root)]
    bom.components.update(component for component, _ in python.values())
    bom.components.update(others)
    bom.register_dependency(image, [component for component, _ in python.values()] + others)
    for component, requires in python.values():
        needs = (python.get(canonicalize_name(requirement.name)) for requirement in requires)
        bom.register_dependency(component, [found[0] for found in needs if found])
    return bom


def write_bom(bom: Bom, path: Path) -> None:
    """Write the SBOM as JSON after validating it.

    Raises:
        ImageError: it violates the schema.
    """
    text = JsonV1Dot6(bom).output_as_string(indent=2)
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ImageError(f"the SBOM violates the schema of CycloneDX 1.6: {fault}")
    write_atomically(path, text + "\n")


def _python_packages(root: Path) -> dict[str, tuple[Component, list[Requirement]]]:
    found = {}
    folders = {str(path.parents[1]) for path in root.rglob("*") if path.as_posix().endswith(_METADATA)}
    for distribution in distributions(path=sorted(folders)):
        metadata = distribution.metadata
        name = canonicalize_name(metadata["Name"])
        component = Component(
            type=ComponentType.LIBRARY,
            name=name,
            version=distribution.version,
            bom_ref=f"pypi:{name}=={distribution.version}",
            description=next(iter(metadata.get_all("Summary", [])), None),
            purl=PackageURL("pypi", None, name, distribution.version),
            licenses=_spdx(_declared(distribution)),
        )
        requires = map(Requirement, distribution.requires or ())
        found[str(name)] = component, [one for one in requires if not one.marker or one.marker.evaluate({"extra": ""})]
    return found


def _declared(distribution: Distribution) -> Iterator[str]:
    """A package's licence from its metadata, in the newest of the three formats present."""
    metadata = distribution.metadata
    classifiers = [one for one in metadata.get_all("Classifier", []) if one.startswith("License ::")]
    if expressions := metadata.get_all("License-Expression"):
        yield from expressions
    elif classifiers:
        yield from (one.rpartition(" :: ")[2] for one in classifiers)
    else:
        yield from (text.splitlines()[0][:_LONGEST_NAME] for text in metadata.get_all("License", []) if text)


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


def _models(root: Path) -> Iterator[Component]:
    for path in sorted((root / "models").glob("*/manifest.json")):
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
    for path in sorted((root / "models").glob(f"*/{DESCRIPTION}")):
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
