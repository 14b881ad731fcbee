"""Faces to verdicts: whose eyes are open, who blinks, of whom it cannot be told, and which photo of several is best.

A verdict is about a person, not about an eye, and it is given only where both eyes are seen and agree. A covered eye
has a score like any other crop, and eyes behind sunglasses often that of open ones, so what hides an eye is looked for
first. The limits were found on pictures made of a portrait, which was turned in space and given glasses and covers, and
on colour crops of eyes that are seen well (docs/faces.md has the figures).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from eyestate import quality
from eyestate.arrays import Pixels
from eyestate.bundle import State
from eyestate.faces import Found
from eyestate.mtcnn import MAX_FACES, Face
from eyestate.quality import Assessment, Person, Reason

MAX_NOSE: Final = 0.35  # off the middle of the eyes, per distance between them: a head turned by about 45 degrees
MAX_WIDTH: Final = 2.55  # of the face, per distance between the eyes: 2.0 to 2.4 from the front
MIN_DETAIL: Final = 0.09  # spread of the grey values in the middle of a crop, per that of the cheek
MIN_LIGHT: Final = 0.5  # the brighter part of the middle of a crop, per that of the cheek

_OUTSIDE: Final[tuple[Reason, ...]] = ("eye_outside",)


@dataclass(frozen=True, slots=True)
class Sight:
    """How well the eyes in a photo are seen.

    Attributes:
        hidden: what keeps each face's eyes from being seen, nothing for most.
        sharpness: the median over the crops of their sharpness at full size (``quality.Measures``); 0 without a crop.
            It compares photos in which the faces are of one size.
    """

    hidden: list[list[Reason]]
    sharpness: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a person's eyes are open: both of them, or closed, both of them.

    Attributes:
        state: ``cannot_tell`` if an eye is hidden or doubtful, or if they differ.
        reasons: why it cannot be told, otherwise none.
    """

    state: Person
    reasons: list[Reason]


@dataclass(frozen=True, slots=True)
class Group:
    """The people in a photo.

    Attributes:
        all_open: whether all have their eyes open; None where that cannot be told, or nobody is there.
        closed, cannot_tell: the places in the list of faces of those who blink, and of whom it cannot be told.
    """

    all_open: bool | None
    closed: list[int]
    cannot_tell: list[int]


@dataclass(frozen=True, slots=True)
class Shot:
    """What counts in choosing the best of several photos of the same people.

    Attributes:
        open, closed, cannot_tell: the number of faces in each state.
        sharpness: of its eyes, as of ``Sight``.
    """

    open: int
    closed: int
    cannot_tell: int
    sharpness: float

    @property
    def faces(self) -> int:
        """How many there are."""
        return self.open + self.closed + self.cannot_tell


def look(found: Found) -> Sight:
    """How well the eyes in a photo are seen, whatever their scores."""
    views = zip(found.crops, found.cheeks, quality.assess(found.crops), strict=True)
    obstacles = [
        _unique([*turn(face), *(reason for box in eyes for reason in (hidden(*next(views)) if box else _OUTSIDE))])
        for face, eyes in zip(found.faces, found.eyes, strict=True)
    ]
    sharpness = [quality.measure([crop]).sharpness.item() for crop in found.crops]
    return Sight(obstacles, float(np.median(sharpness)) if sharpness else 0.0)


def judge(found: Found, sight: Sight, states: Sequence[State]) -> list[Judgement]:
    """The judgement on each face.

    Args:
        found: in a photo.
        sight: how well it is seen.
        states: of its crops.
    """
    each = iter(states)
    return [
        _judged(obstacles, [next(each) for box in eyes if box])
        for eyes, obstacles in zip(found.eyes, sight.hidden, strict=True)
    ]


def group(judgements: Sequence[Judgement]) -> Group:
    """The judgements on all faces of a photo, as one."""
    closed = [place for place, each in enumerate(judgements) if each.state == "closed"]
    unknown = [place for place, each in enumerate(judgements) if each.state == "cannot_tell"]
    complete = 0 < len(judgements) < MAX_FACES  # there may be more than are looked for
    return Group(False if closed else True if complete and not unknown else None, closed, unknown)


def shot(judgements: Sequence[Judgement], sharpness: float) -> Shot:
    """What counts of a photo, by the judgements on its faces and the sharpness of their eyes."""
    states = [judgement.state for judgement in judgements]
    return Shot(states.count("open"), states.count("closed"), states.count("cannot_tell"), sharpness)


def ranked(shots: Mapping[int, Shot]) -> list[int]:
    """The keys of photos of the same people, the best first.

    The best shows the most people with open eyes; of those that show as many, the fewest who blink, then the fewest of
    whom it cannot be told, then the sharpest eyes. Equals keep their order.
    """
    return sorted(shots, key=lambda place: _rank(shots[place]))


def reason(shot: Shot, most: int) -> str:
    """Why a photo is where it is in the ranking, for people.

    Args:
        shot: what counts of the photo.
        most: faces that any of the photos shows.
    """
    if not shot.faces:
        return "no face is found"
    parts = [
        f"{_people(shot.open, shot.faces)} open eyes",
        f"{shot.closed} blinking" if shot.closed else "",
        f"{shot.cannot_tell} cannot be told" if shot.cannot_tell else "",
        f"{most - shot.faces} missing" if shot.faces < most else "",
    ]
    return ", ".join(part for part in parts if part)


def turn(face: Face) -> Iterator[Reason]:
    """Whether a head is turned so far that an eye is hidden or nearly so, by where its nose and its eyes are."""
    across = face.left_eye.x - face.right_eye.x, face.left_eye.y - face.right_eye.y
    distance = math.hypot(*across)
    x = face.nose.x - (face.right_eye.x + face.left_eye.x) / 2
    y = face.nose.y - (face.right_eye.y + face.left_eye.y) / 2
    off = abs(x * across[0] + y * across[1])
    if off > MAX_NOSE * distance**2 or face.box.width > MAX_WIDTH * distance:
        yield "turned"


def hidden(crop: Pixels, cheek: float, assessment: Assessment) -> Iterator[Reason]:
    """What hides an eye: lids, lashes and iris leave traces in the middle of a crop, and it is hardly ever as dark."""
    yield from assessment.flags
    margin = len(crop) // 4
    middle = crop[margin : len(crop) - margin, margin : len(crop) - margin]
    if np.percentile(middle, 75) < MIN_LIGHT * cheek:
        yield "eye_shaded"
    elif middle.std() < MIN_DETAIL * cheek:
        yield "eye_covered"


def _judged(obstacles: list[Reason], states: Sequence[State]) -> Judgement:
    if "uncertain" in states:
        return Judgement("cannot_tell", [*obstacles, "eye_uncertain"])
    if obstacles:
        return Judgement("cannot_tell", obstacles)
    if len(set(states)) > 1:
        return Judgement("cannot_tell", ["eyes_differ"])
    return Judgement("open" if states[0] == "open" else "closed", [])


def _rank(shot: Shot) -> tuple[float, ...]:
    return -shot.open, shot.closed, shot.cannot_tell, -shot.sharpness


def _people(some: int, all_: int) -> str:
    return f"{some} of {all_} with" if some < all_ else f"all {all_} with"


def _unique(reasons: Sequence[Reason]) -> list[Reason]:
    return list(dict.fromkeys(reasons))
