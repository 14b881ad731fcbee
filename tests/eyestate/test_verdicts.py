"""Verdicts on the people in a photo: made of one portrait that is shut, covered, turned and given sunglasses."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

import eyestate
from eyestate.faces import find
from eyestate.mtcnn import FaceDetector
from eyestate.quality import Person
from eyestate.verdicts import Group, Judgement, Shot, group, judge, look, ranked, reason, shot
from tests.images import encoded
from tests.photos import EYES, covered, head, portrait, shut, sunglasses, turned
from tests.photos import group as grouped

SCORER = eyestate.load()
DETECTOR = FaceDetector()
COLOURS = {"black": (10, 10, 10), "grey": (128, 128, 128), "white": (245, 245, 245), "skin": (200, 160, 140)}


def judged(photo: Image.Image) -> list[Judgement]:
    found = find(DETECTOR, encoded(photo, "PNG"))
    return judge(found, look(found), SCORER.states(SCORER.score(found.crops)))


def test_open_and_closed() -> None:
    assert judged(head()) == [Judgement("open", [])]
    assert judged(shut(head(), *EYES)) == [Judgement("closed", [])]


@pytest.mark.parametrize("light", [0.3, 0.6, 1.3])
def test_light_is_no_obstacle(light: float) -> None:
    assert judged(head().point(lambda value: round(value * light))) == [Judgement("open", [])]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_wink_is_no_blink(side: str) -> None:
    assert judged(shut(head(), EYES[side == "left"])) == [Judgement("cannot_tell", ["eyes_differ"])]


@pytest.mark.parametrize("colour", COLOURS.values(), ids=COLOURS)
@pytest.mark.parametrize("state", ["open", "closed"])
@pytest.mark.parametrize("eyes", [EYES[:1], EYES], ids=["one", "both"])
def test_something_in_front_of_an_eye(
    colour: tuple[int, int, int], state: str, eyes: tuple[tuple[int, int], ...]
) -> None:
    face = head() if state == "open" else shut(head(), *EYES)
    (judgement,) = judged(covered(face, *eyes, colour=colour))
    assert judgement.state == "cannot_tell"
    assert judgement.reasons


@pytest.mark.parametrize("opacity", [0.65, 0.9])
@pytest.mark.parametrize("size", [(15, 12), (24, 20)])
@pytest.mark.parametrize("state", ["open", "closed"])
def test_sunglasses(opacity: float, size: tuple[int, int], state: str) -> None:
    face = head() if state == "open" else shut(head(), *EYES)
    (judgement,) = judged(sunglasses(face, (15, 12, 12), opacity, size))
    assert judgement.state == "cannot_tell"
    assert judgement.reasons


def test_mirrored_and_brown_sunglasses() -> None:
    for colour, opacity in (((150, 170, 200), 0.9), ((70, 40, 20), 0.8)):
        (judgement,) = judged(sunglasses(head(), colour, opacity))
        assert judgement.state == "cannot_tell"


@pytest.mark.parametrize("degrees", [-60, -50, 50, 60])
def test_profile(degrees: float) -> None:
    (judgement,) = judged(turned(head(), degrees))
    assert judgement.state == "cannot_tell"
    assert "turned" in judgement.reasons


@pytest.mark.parametrize("degrees", [-30, -15, 0, 15, 30])
def test_half_turned_heads_show_both_eyes(degrees: float) -> None:
    assert judged(turned(head(), degrees)) == [Judgement("open", [])]


def test_an_eye_outside_the_photo() -> None:
    (judgement,) = judged(portrait().crop((203, 0, 512, 300)))
    assert judgement.state == "cannot_tell"
    assert "eye_outside" in judgement.reasons


def test_a_blurred_face() -> None:
    (judgement,) = judged(head().filter(ImageFilter.GaussianBlur(4)))
    assert judgement.state == "cannot_tell"
    assert "too_blurred" in judgement.reasons


def test_each_of_a_group_is_told() -> None:
    judgements = judged(grouped(head(), shut(head(), *EYES), sunglasses(head(), (15, 12, 12), 0.9)))
    assert [each.state for each in judgements] == ["open", "closed", "cannot_tell"]
    assert group(judgements) == Group(False, [1], [2])


@pytest.mark.parametrize(
    ("states", "all_open"),
    [
        ([], None),
        (["open"], True),
        (["open", "open"], True),
        (["open", "closed"], False),
        (["open", "cannot_tell"], None),
        (["cannot_tell", "closed"], False),
        (["open"] * 64, None),  # there may be more than are looked for
    ],
)
def test_all_open(states: list[str], all_open: bool | None) -> None:
    assert group([Judgement(cast("Person", state), []) for state in states]).all_open is all_open


class TestRanking:
    def test_most_open_eyes_first_then_fewest_blinks_then_fewest_unknown_then_sharpest(self) -> None:
        best_first = [Shot(3, 0, 0, 0.1), Shot(2, 0, 1, 0.9), Shot(2, 1, 0, 0.5), Shot(2, 1, 0, 0.4), Shot(0, 0, 0, 0)]
        assert ranked(dict(enumerate(best_first[::-1]))) == [4, 3, 2, 1, 0]

    @given(st.lists(st.builds(Shot, *[st.integers(0, 3)] * 3, st.floats(0, 2)), max_size=20))
    def test_every_photo_has_its_place(self, shots: list[Shot]) -> None:
        assert sorted(ranked(dict(enumerate(shots)))) == [*range(len(shots))]

    def test_a_blurred_photo_comes_after_a_sharp_one(self) -> None:
        shots = []
        for photo in (head().filter(ImageFilter.GaussianBlur(1)), head()):
            found = find(DETECTOR, encoded(photo, "PNG"))
            sight = look(found)
            shots.append(shot(judge(found, sight, ["open", "open"]), sight.sharpness))
        assert ranked(dict(enumerate(shots))) == [1, 0]

    @pytest.mark.parametrize(
        ("counts", "text"),
        [
            ((2, 0, 0), "all 2 with open eyes"),
            ((1, 1, 0), "1 of 2 with open eyes, 1 blinking"),
            ((0, 0, 1), "0 of 1 with open eyes, 1 cannot be told, 1 missing"),
            ((0, 0, 0), "no face is found"),
        ],
    )
    def test_reasons(self, counts: tuple[int, int, int], text: str) -> None:
        assert reason(Shot(*counts, 0.5), most=2) == text
