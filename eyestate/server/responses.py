"""Scores as responses: JSON, ``.npy`` or Arrow, whichever the caller accepts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Final

import numpy as np
from starlette.responses import Response

from eyestate.arrays import Scores
from eyestate.bundle import Card, State
from eyestate.errors import EyestateError, ImageError
from eyestate.faces import Found
from eyestate.media_types import ARROW, JSON, NPY
from eyestate.mtcnn import Box
from eyestate.quality import Assessment
from eyestate.schema import (
    BestResponse,
    ErrorDetail,
    ErrorResponse,
    Eye,
    EyePair,
    FacesResponse,
    FaceVerdict,
    GroupVerdict,
    ModelInfo,
    PersonVerdict,
    PhotoBox,
    PhotoSize,
    Quality,
    RankedPhoto,
)
from eyestate.server import packed
from eyestate.verdicts import Judgement, group, ranked, reason, shot

_DECIMALS = 6
_CONFIDENCE_DECIMALS = 4
_PIXEL_DECIMALS = 1
_SHARPNESS_DECIMALS = 3
_NO_QUALITY: Final = {"__all__": {"eyes": {"left": {"quality"}, "right": {"quality"}}}}


@dataclass(frozen=True, slots=True)
class Scored:
    """A photo and the verdicts on what was found in it.

    Attributes:
        found: the faces and eyes.
        scores: float32 of its crops.
        states, qualities: of the same crops; no qualities where nobody asked.
        judgements: on its faces, None where nobody asked.
        sharpness: of its eyes, as of ``Sight``.
    """

    found: Found
    scores: Scores
    states: list[State]
    qualities: list[Assessment] | None
    judgements: list[Judgement] | None
    sharpness: float


class ResponseWriter:
    """Writes the responses of one model: the JSON of ``eyestate.schema``, in a fraction of the time."""

    def __init__(self, manifest: Card) -> None:
        self._served = ModelInfo(name=manifest.name, version=manifest.version)
        self._model = self._served.model_dump_json()
        self._metadata = {
            "model_name": manifest.name,
            "model_version": manifest.version,
            "model_sha256": manifest.sha256,
        }

    def one(self, score: float, state: State, qualities: Sequence[Assessment] | None) -> Response:
        """The response of ``POST /v1/score``, a ``ScoreResponse``; ``qualities`` has one, or is None."""
        verdict = _verdict(round(score, _DECIMALS), state, qualities[0] if qualities else None)
        return _Json(f'{verdict[:-1]},"model":{self._model}}}')

    def many(
        self,
        accept: str,
        scores: Scores,
        states: Sequence[State],
        qualities: Sequence[Assessment] | None,
        failures: Mapping[int, ImageError],
    ) -> Response:
        """The response of ``POST /v1/score/batch`` in the format that the header ``Accept`` names.

        Args:
            accept: the header; JSON unless it names one of the packed types.
            scores: float32 of the crops that were scored, in order.
            states: of the same crops.
            qualities: of the same crops, None if not requested; only JSON has a place for them.
            failures: what is wrong with the other crops, by their place among all.
        """
        total = len(scores) + len(failures)
        scored = [place for place in range(total) if place not in failures] if failures else range(total)
        if NPY in accept:
            return Response(packed.to_npy(_placed(scores, scored, total)), media_type=NPY)
        if ARROW in accept:
            named: list[State | None] = [None] * total
            for place, state in zip(scored, states, strict=True):
                named[place] = state
            errors = [
                (failures[place].code, failures[place].message) if place in failures else None for place in range(total)
            ]
            table = packed.to_arrow(_placed(scores, scored, total), named, errors, self._metadata)
            return Response(table, media_type=ARROW)
        results = [""] * total
        rounded = np.round(scores.astype(np.float64), _DECIMALS).tolist()
        for place, score, state, quality in zip(scored, rounded, states, qualities or repeat(None), strict=False):
            results[place] = _verdict(score, state, quality)
        for place, error in failures.items():
            results[place] = error_body(error).model_dump_json()
        return _Json(f'{{"results":[{",".join(results)}],"model":{self._model}}}')

    def faces(self, photo: Scored) -> Response:
        """The response of ``POST /v1/faces``, a ``FacesResponse``."""
        answer = FacesResponse(**_photo(photo), model=self._served)
        return _Json(answer.model_dump_json(exclude=_omitted(photo)))

    def best(self, photos: Sequence[Scored | ImageError]) -> Response:
        """The response of ``POST /v1/faces/best``, a ``BestResponse``, to photos that are judged."""
        shots = {
            place: shot(photo.judgements or [], photo.sharpness)
            for place, photo in enumerate(photos)
            if isinstance(photo, Scored)
        }
        ranking = ranked(shots)
        most = max((each.faces for each in shots.values()), default=0)
        answer = BestResponse(
            best=ranking[0] if most else None,
            ranking=ranking,
            photos=[
                RankedPhoto(
                    **_photo(photo),
                    rank=ranking.index(place) + 1,
                    reason=reason(shots[place], most),
                    sharpness=round(photo.sharpness, _SHARPNESS_DECIMALS),
                )
                if isinstance(photo, Scored)
                else error_body(photo)
                for place, photo in enumerate(photos)
            ],
            model=self._served,
        )
        return _Json(answer.model_dump_json(exclude={"photos": {"__all__": {"faces": _NO_QUALITY}}}))


def error_response(error: EyestateError) -> Response:
    """An error as a response."""
    return _Json(error_body(error).model_dump_json(), error.status)


def error_body(error: EyestateError) -> ErrorResponse:
    """An error in the form of the API."""
    return ErrorResponse(error=ErrorDetail(code=error.code, message=error.message))


def _verdict(score: float, state: State, quality: Assessment | None) -> str:
    rest = f',"quality":{_quality(quality).model_dump_json()}' if quality else ""
    return f'{{"score":{score!r},"state":"{state}"{rest}}}'


def _quality(assessment: Assessment) -> Quality:
    return Quality.model_validate(assessment, from_attributes=True)


def _photo(photo: Scored) -> dict[str, Any]:
    """The members that the answers about photos have in common."""
    verdicts = zip(photo.scores.tolist(), photo.states, photo.qualities or repeat(None), strict=False)
    found, judged = photo.found, photo.judgements
    return {
        "faces": [
            FaceVerdict(
                box=_photo_box(face.box),
                confidence=round(face.confidence, _CONFIDENCE_DECIMALS),
                eyes=EyePair(right=_eye(eyes.right, verdicts), left=_eye(eyes.left, verdicts)),
                verdict=PersonVerdict.model_validate(judgement, from_attributes=True) if judgement else None,
            )
            for face, eyes, judgement in zip(found.faces, found.eyes, judged or repeat(None), strict=False)
        ],
        "image": PhotoSize(width=found.width, height=found.height),
        "verdict": None if judged is None else GroupVerdict.model_validate(group(judged), from_attributes=True),
    }


def _omitted(photo: Scored) -> dict[str, Any]:
    """The members that nobody asked for; others may be null."""
    face: dict[str, Any] = {} if photo.qualities else {**_NO_QUALITY["__all__"]}
    if photo.judgements is not None:
        return {"faces": {"__all__": face}} if face else {}
    return {"faces": {"__all__": face | {"verdict": True}}, "verdict": True}


def _eye(box: Box | None, verdicts: Iterator[tuple[float, State, Assessment | None]]) -> Eye | None:
    """The next result, if the eye is in the photo."""
    if box is None:
        return None
    score, state, quality = next(verdicts)
    return Eye(
        box=_photo_box(box), score=round(score, _DECIMALS), state=state, quality=_quality(quality) if quality else None
    )


def _photo_box(box: Box) -> PhotoBox:
    return PhotoBox(**{side: round(pixels, _PIXEL_DECIMALS) for side, pixels in box._asdict().items()})


def _placed(scores: Scores, scored: Sequence[int], total: int) -> Scores:
    placed = np.full(total, np.nan, np.float32)
    placed[scored] = scores
    return placed


class _Json(Response):
    """JSON, in a quarter of the time that Starlette takes to find out what the headers are."""

    media_type = JSON

    def __init__(self, text: str, status: int = 200) -> None:
        self.status_code = status
        self.background = None
        self.body = text.encode()
        self.raw_headers = [(b"content-length", b"%d" % len(self.body)), (b"content-type", JSON.encode())]
