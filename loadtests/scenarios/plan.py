"""The scenarios: kinds and numbers of users, and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

Kind = Literal["single", "multipart", "packed"]

SINGLES_PER_SECOND: Final = 2.0  # requests per user with single crops
BATCHES_PER_SECOND: Final = 1.0  # requests per user with batches


@dataclass(frozen=True, slots=True)
class Stage:
    """That many users for that long."""

    seconds: float
    users: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for a run.

    Attributes:
        p95_ms: of the responses of each kind of request.
        errors: share of all requests that may fail.
        refused: share that may be rejected.
        refused_from: share that must be rejected, or the run was no overload.
    """

    p95_ms: float
    errors: float = 0.0
    refused: float = 0.0
    refused_from: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Kinds of users, stages and limits.

    ``settings`` are environment variables for a service started for the scenario.
    """

    what: str
    kinds: tuple[Kind, ...]
    stages: tuple[Stage, ...]
    limits: Limits
    settings: Mapping[str, str] = field(default_factory=dict)


_MIXED: Final[tuple[Kind, ...]] = ("single", "multipart", "packed")

SCENARIOS: Final[dict[str, Scenario]] = {
    "single": Scenario(
        "one JPEG per request, as from cameras",
        ("single",),
        (Stage(15, 10), Stage(45, 30)),
        Limits(p95_ms=250),
    ),
    "batch": Scenario(
        "batches of crops, multipart files and packed pixels",
        ("multipart", "packed"),
        (Stage(60, 4),),
        Limits(p95_ms=1_000),
    ),
    "mixed": Scenario(
        "single crops and batches, with a rising number of users",
        _MIXED,
        (Stage(20, 10), Stage(20, 15), Stage(20, 20)),
        Limits(p95_ms=1_000),
    ),
    "spike": Scenario(
        "a sudden rise to six times as many users, and back",
        _MIXED,
        (Stage(20, 10), Stage(20, 60), Stage(20, 10)),
        Limits(p95_ms=5_000, refused=0.05),
    ),
    "overload": Scenario(
        "far beyond capacity: the service must reject, and answer what it accepts",
        _MIXED,
        (Stage(10, 10), Stage(40, 600), Stage(10, 10)),
        # An accepted batch may exceed its deadline while single crops keep arriving.
        Limits(p95_ms=10_000, errors=0.01, refused=1.0, refused_from=0.01),
        {"EYESTATE_TIMEOUT": "6"},  # requests that would wait longer than a sixth of it are rejected
    ),
    "soak": Scenario(
        "a moderate, constant load for half an hour; --seconds 28800 makes it a night",
        _MIXED,
        (Stage(1_800, 10),),
        Limits(p95_ms=1_000),
    ),
}


def scaled(stages: Sequence[Stage], *, factor: float, seconds: float | None) -> tuple[Stage, ...]:
    """The stages with ``factor`` times the users, at least one, stretched to ``seconds`` in total."""
    stretch = 1.0 if seconds is None else seconds / sum(stage.seconds for stage in stages)
    return tuple(
        replace(stage, seconds=stage.seconds * stretch, users=max(1, round(stage.users * factor))) for stage in stages
    )


def users_at(stages: Sequence[Stage], seconds: float) -> int | None:
    """Number of users that long after the start; None after the last stage."""
    for stage in stages:
        if seconds < stage.seconds:
            return stage.users
        seconds -= stage.seconds
    return None
