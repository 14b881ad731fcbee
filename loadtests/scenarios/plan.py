"""The scenarios: who calls, how many at a time, and what has to hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

Kind = Literal["single", "multipart", "packed"]

SINGLES_PER_SECOND: Final = 2.0  # requests of a caller who sends single crops
BATCHES_PER_SECOND: Final = 1.0  # requests of a caller who sends batches


@dataclass(frozen=True, slots=True)
class Stage:
    """So many callers for so long."""

    seconds: float
    users: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run must stay within.

    ``p95_ms`` is of the answers of each kind of request; ``errors`` and ``refused`` are shares of all requests, and at
    least ``refused_from`` of them must be refused, for an overload that is not refused is none.
    """

    p95_ms: float
    errors: float = 0.0
    refused: float = 0.0
    refused_from: float = 0.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Callers of these kinds, in these stages, and what has to hold.

    ``settings`` are environment variables for a service that is started for the scenario.
    """

    what: str
    kinds: tuple[Kind, ...]
    stages: tuple[Stage, ...]
    limits: Limits
    settings: Mapping[str, str] = field(default_factory=dict)


_MIXED: Final[tuple[Kind, ...]] = ("single", "multipart", "packed")

SCENARIOS: Final[dict[str, Scenario]] = {
    "single": Scenario(
        "one JPEG a request, as cameras send them",
        ("single",),
        (Stage(15, 10), Stage(45, 30)),
        Limits(p95_ms=250),
    ),
    "batch": Scenario(
        "batches of crops, in turn as multipart files and as packed pixels",
        ("multipart", "packed"),
        (Stage(60, 4),),
        Limits(p95_ms=1_000),
    ),
    "mixed": Scenario(
        "single crops and batches side by side, more and more of them",
        _MIXED,
        (Stage(20, 10), Stage(20, 15), Stage(20, 20)),
        Limits(p95_ms=1_000),
    ),
    "spike": Scenario(
        "calm, six times as many callers all at once, calm again",
        _MIXED,
        (Stage(20, 10), Stage(20, 60), Stage(20, 10)),
        Limits(p95_ms=5_000, refused=0.05),
    ),
    "overload": Scenario(
        "far more than the service can do: it has to refuse, and to answer what it accepted",
        _MIXED,
        (Stage(10, 10), Stage(40, 600), Stage(10, 10)),
        # A batch that was accepted may reach its deadline among ever more single crops.
        Limits(p95_ms=10_000, errors=0.01, refused=1.0, refused_from=0.01),
        {"EYESTATE_TIMEOUT": "6"},  # what would wait longer than a sixth of it is refused
    ),
    "soak": Scenario(
        "the same moderate load for half an hour; --seconds 28800 makes it a night",
        _MIXED,
        (Stage(1_800, 10),),
        Limits(p95_ms=1_000),
    ),
}


def scaled(stages: Sequence[Stage], *, factor: float, seconds: float | None) -> tuple[Stage, ...]:
    """The stages with ``factor`` times the callers, at least one, stretched to ``seconds`` in all."""
    stretch = 1.0 if seconds is None else seconds / sum(stage.seconds for stage in stages)
    return tuple(
        replace(stage, seconds=stage.seconds * stretch, users=max(1, round(stage.users * factor))) for stage in stages
    )


def users_at(stages: Sequence[Stage], seconds: float) -> int | None:
    """The callers that are wanted so long after the start; None once all stages are over."""
    for stage in stages:
        if seconds < stage.seconds:
            return stage.users
        seconds -= stage.seconds
    return None
