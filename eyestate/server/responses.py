"""Scores as answers: JSON, ``.npy`` or Arrow, whichever the caller accepts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat

import numpy as np
from starlette.responses import Response

from eyestate.bundle import Card, State
from eyestate.errors import EyestateError, ImageError
from eyestate.faces import Found
from eyestate.mtcnn import Box
from eyestate.schema import (
    ErrorAnswer,
    ErrorDetail,
    Eye,
    EyePair,
    FacesAnswer,
    FaceVerdict,
    ModelInfo,
    PhotoBox,
    PhotoSize,
    Quality,
)
from eyestate.scorer import Scores
from eyestate.server import packed

_DECIMALS = 6
_CONFIDENCE_DECIMALS = 4
_PIXEL_DECIMALS = 1


class Answers:
    """Writes the answers of one model. The JSON is that of ``eyestate.schema``, written in a fraction of the time."""

    def __init__(self, manifest: Card) -> None:
        self._served = ModelInfo(name=manifest.name, version=manifest.version)
        self._model = self._served.model_dump_json()
        self._metadata = {
            "model_name": manifest.name,
            "model_version": manifest.version,
            "model_sha256": manifest.sha256,
        }

    def one(self, score: float, state: State, qualities: Sequence[Quality] | None) -> Response:
        """The answer of ``POST /v1/score``, a ``ScoreAnswer``; ``qualities`` has one, or is None if nobody asked."""
        verdict = _verdict(round(score, _DECIMALS), state, qualities[0] if qualities else None)
        return _json(f'{verdict[:-1]},"model":{self._model}}}')

    def many(
        self,
        accept: str,
        scores: Scores,
        states: Sequence[State],
        qualities: Sequence[Quality] | None,
        failures: Mapping[int, ImageError],
    ) -> Response:
        """The answer of ``POST /v1/score/batch`` in the format that the header ``Accept`` names.

        Args:
            accept: the header; JSON unless it names one of the packed types.
            scores: float32 of the crops that were scored, in order.
            states: of the same crops.
            qualities: of the same crops, None where nobody asked; only JSON has a place for them.
            failures: what is wrong with the other crops, by their place among all.
        """
        total = len(scores) + len(failures)
        scored = [place for place in range(total) if place not in failures] if failures else range(total)
        if packed.NPY in accept:
            return Response(packed.to_npy(_placed(scores, scored, total)), media_type=packed.NPY)
        if packed.ARROW in accept:
            named: list[State | None] = [None] * total
            for place, state in zip(scored, states, strict=True):
                named[place] = state
            errors = [
                (failures[place].code, failures[place].message) if place in failures else None for place in range(total)
            ]
            table = packed.to_arrow(_placed(scores, scored, total), named, errors, self._metadata)
            return Response(table, media_type=packed.ARROW)
        results = [""] * total
        rounded = np.round(scores.astype(np.float64), _DECIMALS).tolist()
        for place, score, state, quality in zip(scored, rounded, states, qualities or repeat(None), strict=False):
            results[place] = _verdict(score, state, quality)
        for place, error in failures.items():
            results[place] = error_answer(error).model_dump_json()
        return _json(f'{{"results":[{",".join(results)}],"model":{self._model}}}')

    def faces(
        self, found: Found, scores: Scores, states: Sequence[State], qualities: Sequence[Quality] | None
    ) -> Response:
        """The answer of ``POST /v1/faces``, a ``FacesAnswer``.

        Args:
            found: in the photo.
            scores: float32 of its crops.
            states, qualities: of the same crops; no qualities where nobody asked.
        """
        verdicts = zip(scores.tolist(), states, qualities or repeat(None), strict=False)
        answer = FacesAnswer(
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
        unasked = None if qualities else {"faces": {"__all__": {"eyes": {"left": {"quality"}, "right": {"quality"}}}}}
        return _json(answer.model_dump_json(exclude=unasked))


def refusal(error: EyestateError) -> Response:
    """An error as the answer of a request."""
    return _json(error_answer(error).model_dump_json(), error.status)


def error_answer(error: EyestateError) -> ErrorAnswer:
    """An error in the form of the API."""
    return ErrorAnswer(error=ErrorDetail(code=error.code, message=error.message))


def _verdict(score: float, state: State, quality: Quality | None) -> str:
    rest = f',"quality":{quality.model_dump_json()}' if quality else ""
    return f'{{"score":{score!r},"state":"{state}"{rest}}}'


def _eye(box: Box | None, verdicts: Iterator[tuple[float, State, Quality | None]]) -> Eye | None:
    """The next verdict, where the eye is in the photo."""
    if box is None:
        return None
    score, state, quality = next(verdicts)
    return Eye(box=_photo_box(box), score=round(score, _DECIMALS), state=state, quality=quality)


def _photo_box(box: Box) -> PhotoBox:
    return PhotoBox(**{side: round(pixels, _PIXEL_DECIMALS) for side, pixels in box._asdict().items()})


def _placed(scores: Scores, scored: Sequence[int], total: int) -> Scores:
    placed = np.full(total, np.nan, np.float32)
    placed[scored] = scores
    return placed


def _json(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type="application/json")
