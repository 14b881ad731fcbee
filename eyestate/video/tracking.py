"""Which face in a frame is whose: faces are searched for now and then, and followed in between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from eyestate.arrays import Pixels
from eyestate.mtcnn import Box, Face, FaceDetector

SEARCH_SECONDS: Final = 1.0  # between searches of the whole frame while everybody can be followed
LOST_SEARCH_SECONDS: Final = 0.2  # while somebody, or everybody, is out of sight
REMEMBERED_SECONDS: Final = 2.0  # that a lost person may be found again, near the place where they were lost
_SAME_FACE: Final = 0.3  # least intersection over union of two boxes of one face


@dataclass(frozen=True, slots=True)
class Person:
    """A person, where they were seen last, and when, in seconds."""

    number: int
    face: Face
    seen: float


class Tracker:
    """Follows people from frame to frame. Someone who comes back after ``REMEMBERED_SECONDS`` is a new person."""

    def __init__(
        self,
        detector: FaceDetector,
        people: list[Person] | None = None,
        count: int = 0,
        search_seconds: float = SEARCH_SECONDS,
    ) -> None:
        """Args:
        detector: finds and follows faces.
        people: of a tracker that stopped, and ``count``, to go on where it stopped.
        count: people seen so far.
        search_seconds: between searches of the whole frame; 0 searches every frame.
        """
        self.people = people or []
        self.count = count
        self._detector = detector
        self._search_seconds = search_seconds
        self._searched = float("-inf")

    def update(self, time: float, frame: Pixels) -> list[Person]:
        """The people in the next frame.

        Args:
            time: seconds.
            frame: upright RGB, uint8 (height, width, 3).
        """
        self.people = [person for person in self.people if time - person.seen <= REMEMBERED_SECONDS]
        lost = not self.people or any(person.seen < self._latest for person in self.people)
        wait = min(LOST_SEARCH_SECONDS, self._search_seconds) if lost else self._search_seconds
        if time - self._searched >= wait:
            self._searched = time
            self._assign(time, self._detector.detect(frame))
        else:
            self._follow(time, frame)
        return [person for person in self.people if person.seen == time]

    @property
    def _latest(self) -> float:
        return max(person.seen for person in self.people)

    def _follow(self, time: float, frame: Pixels) -> None:
        latest = self._latest if self.people else time
        current = [person for person in self.people if person.seen == latest]
        taken: list[Box] = []
        for person, face in zip(current, self._detector.follow(frame, [p.face for p in current]), strict=True):
            if face and all(overlap(face.box, box) < _SAME_FACE for box in taken):
                taken.append(face.box)
                self.people[self.people.index(person)] = replace(person, face=face, seen=time)

    def _assign(self, time: float, faces: list[Face]) -> None:
        """Give each face the person whose last place it overlaps most, or a new one."""
        pairs = [
            (overlap(face.box, person.face.box), number, place)
            for number, face in enumerate(faces)
            for place, person in enumerate(self.people)
        ]
        owners: dict[int, int] = {}
        for shared, number, place in sorted(pairs, reverse=True):
            if shared >= _SAME_FACE and number not in owners and place not in owners.values():
                owners[number] = place
        for number, face in enumerate(faces):
            if number in owners:
                self.people[owners[number]] = replace(self.people[owners[number]], face=face, seen=time)
            else:
                self.count += 1
                self.people.append(Person(self.count, face, time))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    shared = max(width, 0) * max(height, 0)
    return shared / (one.width * one.height + other.width * other.height - shared) if shared else 0.0
