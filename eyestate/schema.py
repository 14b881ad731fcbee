"""Requests and answers of the HTTP API, as pydantic models: validated, typed and shown in OpenAPI."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from eyestate.bundle import State
from eyestate.quality import Flag, Person, Reason

Score = Annotated[float, Field(ge=0, le=1, description="P(open): 0 is certainly closed, 1 certainly open")]


class _Response(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ModelInfo(_Response):
    """The model that gave the scores."""

    name: str
    version: str


class LoadedModel(ModelInfo):
    """The model a worker has loaded; ``sha256`` is that of its ``model.onnx``."""

    sha256: str


class Readiness(_Response):
    """Answer of ``GET /readyz``: 200 while ``ready``, 503 while ``draining``."""

    status: Literal["ready", "draining"]
    model: LoadedModel
    device: Annotated[str, Field(description="what computes, and in which precision")]
    waiting: Annotated[int, Field(ge=0, description="crops in this worker's queue")]


class Quality(_Response):
    """How well the eye can be seen. A flag means that errors or uncertain verdicts are at least twice as frequent."""

    width: Annotated[int, Field(description="of the crop as it was sent, in pixels")]
    height: Annotated[int, Field(description="of the crop as it was sent, in pixels")]
    brightness: Annotated[float, Field(ge=0, le=255, description="mean grey value")]
    contrast: Annotated[float, Field(ge=0, le=127.5, description="standard deviation of the grey values")]
    sharpness: Annotated[float, Field(ge=0, description="variance of the Laplacian over that of the grey values")]
    flags: list[Flag]


class Verdict(_Response):
    """Score and state of one crop, and where it was asked for (``?quality=true``), how well the eye can be seen."""

    score: Score
    state: State
    quality: Quality | None = None


class ScoreResponse(Verdict):
    """Answer of ``POST /v1/score``."""

    model: ModelInfo


class PhotoBox(_Response):
    """A rectangle within a photo, in pixels of the upright photo, from its left upper corner."""

    left: float
    top: float
    width: float
    height: float


class PhotoSize(_Response):
    """Width and height of an upright photo in pixels."""

    width: int
    height: int


class Eye(_Response):
    """An eye of a face: where it is, and the verdict on it."""

    box: Annotated[PhotoBox, Field(description="the square that was scored, as far as it is in the photo")]
    score: Score
    state: State
    quality: Quality | None = None


class EyePair(_Response):
    """The person's own left and right eye, null where it is beyond the edge of the photo."""

    left: Eye | None
    right: Eye | None


class PersonVerdict(_Response):
    """Whether both eyes are open, or closed; ``cannot_tell`` if one is hidden or doubtful, or they differ."""

    state: Person
    reasons: Annotated[list[Reason], Field(description="why it cannot be told, otherwise empty")]


class GroupVerdict(_Response):
    """The people in a photo, by their place in the list of faces."""

    all_open: Annotated[
        bool | None, Field(description="whether nobody blinks; null if that cannot be told, or nobody is there")
    ]
    closed: Annotated[list[int], Field(description="who blinks")]
    cannot_tell: Annotated[list[int], Field(description="of whom it cannot be told")]


class FaceVerdict(_Response):
    """A face in a photo, its eyes, and where it was asked for (``?verdict=true``), whether they are open."""

    box: PhotoBox
    confidence: Annotated[float, Field(ge=0, le=1, description="of the detector that this is a face")]
    eyes: EyePair
    verdict: PersonVerdict | None = None


class Photo(_Response):
    """The faces in a photo, largest first, and where it was asked for (``?verdict=true``), the verdict on all."""

    faces: list[FaceVerdict]
    image: PhotoSize
    verdict: GroupVerdict | None = None


class FacesResponse(Photo):
    """Answer of ``POST /v1/faces``: the faces, largest first; none is no error."""

    model: ModelInfo


class RankedPhoto(Photo):
    """A photo among several: its place among them, 1 for the best, and why."""

    rank: Annotated[int, Field(ge=1)]
    reason: Annotated[str, Field(description="for people; the verdict is for programs")]
    sharpness: Annotated[float, Field(ge=0, description="of the eyes; decides between photos that are equal otherwise")]


class ErrorDetail(_Response):
    """What is wrong: ``code`` for programs, ``message`` for people."""

    code: str
    message: str


class ErrorResponse(_Response):
    """Answer of every request that could not be served, and the place of a crop that could not be scored."""

    error: ErrorDetail


class BatchResponse(_Response):
    """Answer of ``POST /v1/score/batch``: a verdict or an error for each image, in the order they were sent."""

    results: list[Verdict | ErrorResponse]
    model: ModelInfo


class BestResponse(_Response):
    """Answer of ``POST /v1/faces/best``: each photo or its error, in the order they were sent."""

    best: Annotated[int | None, Field(description="the place of the best photo, from 0; null if there is no face")]
    ranking: Annotated[list[int], Field(description="the places of the photos that could be read, the best first")]
    photos: list[RankedPhoto | ErrorResponse]
    model: ModelInfo
