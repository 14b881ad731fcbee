"""Model bundles: ``models/<name>/`` with ``manifest.json``, the card ``README.md`` and, of a network, ``model.onnx``.

A bundle holds one network, or names two others that answer together as a cascade.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator

from eyestate import __version__
from eyestate.errors import BundleError

DEFAULT_MODEL: Final = "cascade"

_VERSION_1: Final = {"quick": "small", "thorough": "large", "unsure": "deferral_band"}  # fields of a cascade, renamed

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Score = Annotated[float, Field(ge=0, le=1)]
Feature = Literal["score", "width", "brightness", "sharpness"]
State = Literal["open", "closed", "uncertain"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class InputContract(_Part):
    """What the network takes: a batch of square grey crops. Scaling to floats is part of the graph."""

    name: str
    shape: tuple[Literal["batch"], int, int]
    dtype: Literal["uint8"] = "uint8"
    colour: Literal["grey, ITU-R 601-2 luma, 0 to 255"] = "grey, ITU-R 601-2 luma, 0 to 255"
    resize: Literal["bilinear with antialiasing, aspect ratio not kept"] = (
        "bilinear with antialiasing, aspect ratio not kept"
    )

    @model_validator(mode="after")
    def _square(self) -> Self:
        if self.shape[1] != self.shape[2]:
            raise ValueError("the input must be square")
        return self

    @property
    def side(self) -> int:
        """Width and height in pixels."""
        return self.shape[1]


class OutputContract(_Part):
    """The output of the network: P(open) of each crop."""

    name: str
    shape: tuple[Literal["batch"]] = ("batch",)
    dtype: Literal["float32"] = "float32"
    meaning: Literal["P(open), 0 to 1"] = "P(open), 0 to 1"


class Thresholds(_Part):
    """Scores up to ``closed`` mean closed, from ``open`` open, and in between uncertain."""

    closed: Score
    open: Score
    rule: str

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.closed >= self.open:
            raise ValueError("the closed threshold must be below the open threshold")
        return self


class DataSource(_Part):
    """Data a model was trained on.

    ``people`` is how many people they show, 0 where unknown; where they are few, ``subjects`` names them.
    """

    name: str
    crops: int
    people: int = 0
    subjects: list[str]
    fingerprint: Sha256


class Member(_Part):
    """A network in a bundle of its own."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    sha256: Sha256


class Training(_Part):
    """How the weights were trained."""

    architecture: str
    backbone: str
    teacher: Annotated[Member | None, Field(description="the network it was distilled from")] = None
    settings: dict[str, str | int | float]
    data: list[DataSource]
    git_revision: str


class Metric(_Part):
    """A measured figure with its 95 % confidence interval."""

    name: str
    value: float
    low: float
    high: float
    n: int
    interval: str


class Distribution(_Part):
    """A binned distribution: the shares of the crops up to the first edge, between edges, and beyond the last.

    A value equal to an edge lies below it.
    """

    edges: Annotated[list[float], Field(min_length=1)]
    shares: list[Annotated[float, Field(ge=0, le=1)]]

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if sorted(set(self.edges)) != self.edges:
            raise ValueError("the edges must increase")
        if len(self.shares) != len(self.edges) + 1 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError("there must be one share more than edges, and the shares must add up to 1")
        return self


class Reference(_Part):
    """Distributions of the crops that the model is made for, and of its scores: the reference for drift."""

    data: str
    crops: int
    uncertain: Annotated[float, Field(ge=0, le=1, description="share of the crops between the thresholds")]
    features: dict[Feature, Distribution]


class Calibration(_Part):
    """Whether the logits were calibrated, so that a score can be read as a probability.

    They are divided by ``temperature`` within ``model.onnx`` (Guo et al. 2017); 1 means not calibrated.
    """

    temperature: Annotated[float, Field(gt=0)]
    rule: str


class Card(_Part):
    """What a caller must know about any model."""

    schema_version: Literal[1, 2] = 1
    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    version: str
    created: datetime
    sha256: Sha256
    classes: tuple[Literal["closed"], Literal["open"]] = ("closed", "open")
    thresholds: Thresholds
    metrics: list[Metric]
    reference: Reference | None = None


class Manifest(Card):
    """``manifest.json`` of a network: everything a caller must know of ``model.onnx``, whose SHA-256 it names."""

    schema_version: Literal[1] = 1
    input: InputContract
    output: OutputContract
    training: Training
    calibration: Calibration | None = None
    parity: Annotated[float, Field(description="largest score difference of ONNX Runtime and PyTorch, on real crops")]


class DeferralBand(_Part):
    """The scores of the small network, both bounds included, at which a crop is deferred to the large one."""

    low: Score
    high: Score
    rule: str

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError("the lower bound must not be above the upper one")
        return self


class CascadeManifest(Card):
    """``manifest.json`` of a cascade, whose networks lie in bundles beside its own.

    Its SHA-256 stands for its networks and its deferral band (``cascade_sha256``). Version 1 of the schema, which named
    the fields ``quick``, ``thorough`` and ``unsure``, is still read.
    """

    schema_version: Literal[2] = 2
    small: Member
    large: Member
    deferral_band: DeferralBand

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, found: Any) -> Any:
        if not isinstance(found, dict) or found.get("schema_version") != 1:
            return found
        return {"schema_version": 2} | {
            _VERSION_1.get(name, name): value for name, value in found.items() if name != "schema_version"
        }


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified network.

    Attributes:
        content: the bytes of ``model.onnx`` that were verified; its file may change later.
    """

    path: Path
    manifest: Manifest
    content: bytes = field(repr=False)

    @property
    def onnx(self) -> Path:
        return self.path / "model.onnx"


@dataclass(frozen=True, slots=True)
class CascadeBundle:
    """A verified cascade and its networks."""

    path: Path
    manifest: CascadeManifest
    small: Bundle
    large: Bundle


def _kind(found: object) -> str:
    return "cascade" if isinstance(found, dict) and {"deferral_band", "unsure"} & found.keys() else "network"


_MANIFEST: Final[TypeAdapter[Manifest | CascadeManifest]] = TypeAdapter(
    Annotated[
        Annotated[Manifest, Tag("network")] | Annotated[CascadeManifest, Tag("cascade")],
        Discriminator(_kind),
    ]
)


def cascade_sha256(small: Member, large: Member, band: DeferralBand) -> str:
    """The SHA-256 of a cascade: equal if and only if networks and deferral band are."""
    return hashlib.sha256(f"{small.sha256} {large.sha256} {band.low!r} {band.high!r}".encode()).hexdigest()


def models_dir() -> Path:
    """The folder of the bundles: ``$EYESTATE_MODELS``, else ``models/`` beside this package, else ``./models``."""
    if configured := os.environ.get("EYESTATE_MODELS"):
        return Path(configured)
    beside = Path(__file__).parents[1] / "models"
    return beside if any(beside.glob("*/manifest.json")) else Path("models").absolute()


def bundles() -> dict[str, Path]:
    """The folders of the bundles in ``models_dir()``, by their names."""
    return {path.parent.name: path.parent for path in sorted(models_dir().glob("*/manifest.json"))}


def load_model(model: str | Path | None = None) -> Bundle | CascadeBundle:
    """Find a bundle and verify its parts.

    Args:
        model: the name of a bundle in ``models_dir()`` or the path of a bundle's folder; ``$EYESTATE_MODEL``, else
            the shipped default, where it is None.

    Raises:
        BundleError: there is no such bundle, this version cannot read its manifest, or the SHA-256 of a network does
            not match.
    """
    path = _find(model or os.environ.get("EYESTATE_MODEL") or DEFAULT_MODEL)
    manifest = read_manifest(path)
    if isinstance(manifest, Manifest):
        return _verified(path, manifest)
    small, large = (_member(path, manifest.name, member) for member in (manifest.small, manifest.large))
    if manifest.sha256 != cascade_sha256(manifest.small, manifest.large, manifest.deferral_band):
        raise BundleError(
            f"{path / 'manifest.json'} is damaged: its SHA-256 is not that of its networks and deferral band"
        )
    return CascadeBundle(path, manifest, small, large)


def load_bundle(model: str | Path | None = None) -> Bundle:
    """``load_model`` for callers that need a single network.

    Raises:
        BundleError: as ``load_model``, or it is a cascade.
    """
    bundle = load_model(model)
    if isinstance(bundle, CascadeBundle):
        names = f"{bundle.manifest.small.name} or {bundle.manifest.large.name}"
        raise BundleError(f"{bundle.manifest.name} is a cascade; a single network is needed here, such as {names}")
    return bundle


def _member(cascade: Path, name: str, member: Member) -> Bundle:
    bundle = load_bundle(cascade.parent / member.name)
    if bundle.manifest.sha256 != member.sha256:
        raise BundleError(
            f"the cascade {name} was made for another {member.name}: its SHA-256 is {bundle.manifest.sha256[:12]}…, "
            f"not {member.sha256[:12]}…; `python -m training cascade` makes it anew"
        )
    return bundle


def read_manifest(path: Path) -> Manifest | CascadeManifest:
    """The manifest of the bundle in a folder, whose other files are not looked at.

    Raises:
        BundleError: it is missing, or does not fit this version.
    """
    try:
        return _MANIFEST.validate_json((path / "manifest.json").read_bytes())
    except FileNotFoundError as error:
        raise BundleError(f"the bundle {path} is incomplete: {Path(error.filename).name} is missing") from None
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"][1:])) or "the file"  # its first part is the kind of the bundle
        raise BundleError(f"{path / 'manifest.json'} does not fit this version: {where}: {fault['msg']}") from None


def _verified(path: Path, manifest: Manifest) -> Bundle:
    try:
        content = (path / "model.onnx").read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"the bundle {path} is incomplete: {Path(error.filename).name} is missing") from None
    if (sha256 := hashlib.sha256(content).hexdigest()) != manifest.sha256:
        raise BundleError(
            f"{path / 'model.onnx'} is damaged or not the model of this manifest: its SHA-256 is {sha256[:12]}…, "
            f"the manifest says {manifest.sha256[:12]}…; restore it, for example with `git checkout {path.name}`"
        )
    return Bundle(path, manifest, content)


def _find(model: str | Path) -> Path:
    for path in (models_dir() / model, Path(model)):
        if path.is_dir():
            return path
    folder = models_dir()
    if names := bundles():
        raise BundleError(f"there is no model {str(model)!r} in {folder}, which holds: {', '.join(names)}")
    raise BundleError(
        f"there is no model {str(model)!r}: {folder} holds no models. The installed package comes without them; unpack "
        f"eyestate-models-{__version__}.tar.gz of its release here, or set EYESTATE_MODELS to the path of a folder "
        "models/, or name a bundle's folder"
    )
