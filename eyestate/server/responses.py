"""Scores as responses: JSON, ``.npy`` or Arrow, whichever the caller accepts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

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
    ErrorDetail,
    ErrorResponse,
    Eye,
    EyePair,
    FacesResponse,
    FaceVerdict,
    ModelInfo,
    PhotoBox,
    PhotoSize,
    Quality,
)
from eyestate.server import packed

_DECIMALS = 6
_CONFIDENCE_DECIMALS = 4
_PIXEL_DECIMALS = 1


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
        return _json(f'{verdict[:-1]},"model":{self._model}}}')

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
        return _json(f'{{"results":[{",".join(results)}],"model":{self._model}}}')

    def faces(
        self, found: Found, scores: Scores, states: Sequence[State], qualities: Sequence[Assessment] | None
    ) -> Response:
        """The response of ``POST /v1/faces``, a ``FacesResponse``.

        Args:
            found: in the photo.
            scores: float32 of its crops.
            states, qualities: of the same crops; no qualities if not requested.
        """
        verdicts = zip(scores.tolist(), states, qualities or repeat(None), strict=False)
        answer = FacesResponse(
            faces=[
                FaceVerdict(
                    box=_photo_box(face.box),
                    confidence=round(face.confidence, _CONFIDENCE_DECIMALS),
                    eyes=EyePair(right=_eye(eyes.right, verdicts), left=_eye(eyes.left, verdicts)),
                )
                for face, eyes in zip(found.faces, found.eyes, strict=True)
            ],
            image=PhotoSize(width=found.width, height=found.height),
            model=self._served,
        )
        omitted = None if qualities else {"faces": {"__all__": {"eyes": {"left": {"quality"}, "right": {"quality"}}}}}
        return _json(answer.model_dump_json(exclude=omitted))


def error_response(error: EyestateError) -> Response:
    """An error as a response."""
    return _json(error_body(error).model_dump_json(), error.status)


def error_body(error: EyestateError) -> ErrorResponse:
    """An error in the form of the API."""
    return ErrorResponse(error=ErrorDetail(code=error.code, message=error.message))


def _verdict(score: float, state: State, quality: Assessment | None) -> str:
    rest = f',"quality":{_quality(quality).model_dump_json()}' if quality else ""
    return f'{{"score":{score!r},"state":"{state}"{rest}}}'


def _quality(assessment: Assessment) -> Quality:
    return Quality.model_validate(assessment, from_attributes=True)


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


def _json(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type=JSON)
