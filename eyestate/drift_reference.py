"""A reference for drift from a user's own crops: of a running service, of Prometheus, or of files.

The reference in a model's manifest describes the crops that the model was developed with. Those of a user have other
cameras, detectors and people, so that their drift is told better against what they were when all was well.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eyestate.bundle import Card, Distribution, Feature, Reference
from eyestate.drift import LEAST, SOURCES, Source, Values, reference
from eyestate.errors import EyestateError, ImageError, SettingError, UnreachableError
from eyestate.extras import extra
from eyestate.images import decode, read
from eyestate.quality import measure, shrink

if TYPE_CHECKING:
    from eyestate.scorer import Scorer

METRICS: Final[dict[Feature, str]] = {
    "score": "eyestate_crop_score",
    "width": "eyestate_crop_width_pixels",
    "brightness": "eyestate_crop_brightness",
    "sharpness": "eyestate_crop_sharpness",
}
_SECONDS: Final = 30.0
_SAMPLE: Final = re.compile(r"^(eyestate_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')


class DriftReferenceError(EyestateError):
    """Metrics or files of which no reference can be made."""

    code = "no_drift_reference"


class ServedModel(BaseModel):
    """The model that gave the scores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str
    sha256: str


class DriftReference(BaseModel):
    """The file that ``EYESTATE_DRIFT_REFERENCE`` names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    created: datetime
    model: ServedModel
    sources: dict[Source, Reference] = Field(min_length=1)

    @classmethod
    def of(cls, model: ServedModel, sources: dict[Source, Reference]) -> Self:
        """One that is made now."""
        return cls(created=datetime.now(UTC).replace(microsecond=0), model=model, sources=sources)

    def of_source(self, source: Source, model: Card) -> Reference | None:
        """The reference for crops of a source and a model; without scores if another model gave them."""
        found = self.sources.get(source)
        if found is None or self.model.sha256 == model.sha256:
            return found
        features = {feature: shares for feature, shares in found.features.items() if feature != "score"}
        return found.model_copy(update={"features": features})


class Sample(NamedTuple):
    """A value of a metric in Prometheus' text format or in an answer of Prometheus."""

    name: str
    labels: dict[str, str]
    value: float


def load(path: Path) -> DriftReference:
    """Read a reference.

    Raises:
        SettingError: it cannot be read, or is none.
    """
    try:
        return DriftReference.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingError(f"EYESTATE_DRIFT_REFERENCE: cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise SettingError(
            f"EYESTATE_DRIFT_REFERENCE: {path} is no reference of `eyestate drift-reference`: {where}: {fault['msg']}"
        ) from None


def from_service(endpoint: str) -> DriftReference:
    """Of all crops that a running service has scored since its start.

    Raises:
        DriftReferenceError: it has seen too few, or is no service of this kind.
        UnreachableError: it does not answer.
    """
    text = _get(endpoint, "/metrics", {})
    samples = [
        Sample(name, dict(_LABEL.findall(labels)), float(value)) for name, labels, value in _SAMPLE.findall(text)
    ]
    return _from_samples(samples, f"{endpoint}, since its start")


def from_prometheus(server: str, window: str, selector: str = "") -> DriftReference:
    """Of the crops that all services have scored in a window of time, as Prometheus has it.

    Args:
        server: URL of Prometheus.
        window: up to now, as PromQL has it, such as ``7d``.
        selector: labels that the services have, such as ``namespace="eyes"``.

    Raises:
        DriftReferenceError: there are too few crops, several models, or Prometheus refuses the query.
        UnreachableError: it does not answer.
    """

    def ask(query: str) -> list[Sample]:
        answer = json.loads(_get(server, "/api/v1/query", {"query": query}))
        if answer.get("status") != "success":
            raise DriftReferenceError(f"Prometheus refuses {query}: {answer.get('error')}")
        return [
            Sample(series["metric"].get("__name__", ""), series["metric"], float(series["value"][1]))
            for series in answer["data"]["result"]
        ]

    models = f"count by (name, version, sha256) (last_over_time(eyestate_model_info{{{selector}}}[{window}]))"
    samples = [sample._replace(name="eyestate_model_info") for sample in ask(models)]
    for metric in METRICS.values():
        query = f"sum by (source, le) (increase({metric}_bucket{{{selector}}}[{window}]))"
        samples += [sample._replace(name=f"{metric}_bucket") for sample in ask(query)]
    recent = ", ".join(filter(None, ['crops="recent"', selector]))
    query = f"avg by (crops, source) (avg_over_time(eyestate_uncertain_share{{{recent}}}[{window}]))"
    samples += [sample._replace(name="eyestate_uncertain_share") for sample in ask(query)]
    return _from_samples(samples, f"{server}, the last {window}")


def from_files(files: Sequence[Path], scorer: Scorer, tell: Callable[[Path, ImageError], object]) -> DriftReference:
    """Of crops in files.

    Args:
        files: one crop each.
        scorer: of the model that is served.
        tell: is told of a file that cannot be read, which is left out.

    Raises:
        DriftReferenceError: there are too few.
    """
    widths, scores, looks = [], [], []
    for file in files:
        try:
            crop = decode(read(file))
        except ImageError as error:
            tell(file, error)
            continue
        widths.append(crop.shape[1])
        scores.append(scorer.score([crop]).item())
        looks.append(shrink(crop))
    if len(scores) < LEAST:
        raise DriftReferenceError(f"there are {len(scores):,} crops; a reference needs at least {LEAST}")
    measures = measure(looks)
    values: dict[Feature, Values] = {
        "score": np.asarray(scores, np.float64),
        "width": np.asarray(widths, np.float64),
        "brightness": measures.brightness.astype(np.float64),
        "sharpness": measures.sharpness.astype(np.float64),
    }
    manifest = scorer.manifest
    made = reference(f"{len(scores):,} files", values, manifest.thresholds)
    model = ServedModel(name=manifest.name, version=manifest.version, sha256=manifest.sha256)
    return DriftReference.of(model, {"crops": made})


def _from_samples(samples: Iterable[Sample], data: str) -> DriftReference:
    samples = list(samples)
    models = {
        tuple(sample.labels[label] for label in ("name", "version", "sha256"))
        for sample in samples
        if sample.name == "eyestate_model_info" and sample.value
    }
    if len(models) != 1:
        served = ", ".join(f"{name} {version}" for name, version, _ in sorted(models)) or "no metrics of eyestate"
        raise DriftReferenceError(f"one model is needed, but {data}, there is: {served}")
    ((name, version, sha256),) = models
    sources: dict[Source, Reference] = {}
    crops = 0
    for source in SOURCES:
        counts = {feature: _bins(samples, f"{metric}_bucket", source) for feature, metric in METRICS.items()}
        seen = round(sum(counts["score"].values()))
        crops = max(crops, seen)
        uncertain = [
            sample.value
            for sample in samples
            if sample.name == "eyestate_uncertain_share"
            and sample.labels.items() >= {"crops": "recent", "source": source}.items()
        ]
        # Brightness and sharpness are those of a sample.
        if uncertain and all(sum(bins.values()) >= LEAST for bins in counts.values()):
            features = {feature: _distribution(bins) for feature, bins in counts.items()}
            sources[source] = Reference(data=data, crops=seen, uncertain=uncertain[0], features=features)
    if not sources:
        raise DriftReferenceError(
            f"{data}: {crops:,} crops were scored; a reference needs at least {LEAST}, and as many whose brightness "
            "was measured, of which there are 64 a second at most; let the service score more first"
        )
    return DriftReference.of(ServedModel(name=name, version=version, sha256=sha256), sources)


def _bins(samples: Iterable[Sample], name: str, source: Source) -> dict[float, float]:
    """How many values lie up to each edge and above the one before, by the edge, ascending."""
    cumulative = sorted(
        (float(sample.labels["le"]), sample.value)
        for sample in samples
        if sample.name == name and sample.labels.get("source") == source
    )
    below = [0.0, *(count for _, count in cumulative)]
    return {edge: max(0.0, count - less) for (edge, count), less in zip(cumulative, below, strict=False)}


def _distribution(bins: dict[float, float]) -> Distribution:
    total = math.fsum(bins.values())
    edges = [edge for edge in bins if edge != math.inf]
    return Distribution(edges=edges, shares=[count / total for count in bins.values()])


def _get(endpoint: str, path: str, query: dict[str, str]) -> str:
    with extra("client"):
        import httpx  # noqa: PLC0415  # the service reads references too, without this extra

        from eyestate.client.connection import connected  # noqa: PLC0415

    with connected(httpx.Client, endpoint, None, True, _SECONDS) as client:
        try:
            answer = client.get(path, params=query)
        except httpx.TransportError as error:
            raise UnreachableError(f"no answer from {endpoint}: {error}") from None
    if answer.status_code == 200 or answer.headers.get("content-type", "").startswith("application/json"):
        return answer.text
    raise DriftReferenceError(f"{answer.url} answers {answer.status_code}; is it the service, or Prometheus?")
