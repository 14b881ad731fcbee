"""Requests and answers of the HTTP API, as pydantic models: validated, typed and shown in OpenAPI."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from eyestate.bundle import State

Score = Annotated[float, Field(ge=0, le=1, description="P(open): 0 is certainly closed, 1 certainly open")]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())


class ModelInfo(_Answer):
    """The model that gave the scores."""

    name: str
    version: str


class Verdict(_Answer):
    """Score and state of one crop."""

    score: Score
    state: State


class ScoreAnswer(Verdict):
    """Answer of ``POST /v1/score``."""

    model: ModelInfo


class ErrorDetail(_Answer):
    """What is wrong: ``code`` for programs, ``message`` for people."""

    code: str
    message: str


class ErrorAnswer(_Answer):
    """Answer of every request that could not be served, and the place of a crop that could not be scored."""

    error: ErrorDetail


class BatchAnswer(_Answer):
    """Answer of ``POST /v1/score/batch``: a verdict or an error for each image, in the order they were sent."""

    results: list[Verdict | ErrorAnswer]
    model: ModelInfo
