from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.datasets import MRL, Crop, LabelledCrop
from training.data.labels import Answer, Label
from training.labelling.pseudo_label import (
    LABEL_RELIABILITY,
    RELIABILITY,
    doubt_labels,
    human_labels,
    merge,
    pseudo_labels,
    queue,
    soft_targets,
)


def crops(n: int) -> list[Crop]:
    return [Crop(f"{i:03}.jpg", b"") for i in range(n)]


def test_sure_scores_become_labels() -> None:
    verdicts = pseudo_labels(crops(5), np.array([0.0, 0.05, 0.5, 0.95, 1.0]))
    assert [item.label for item in verdicts] == [0, 0, None, 1, 1]
    assert [item.p_open for item in verdicts] == [0.0, 0.05, 0.5, 0.95, 1.0]
    assert {item.source for item in verdicts} == {"pseudo"}


@given(st.lists(st.floats(0, 1), max_size=40), st.integers(0, 50))
def test_the_queue_is_the_most_doubtful_first(scores: list[float], budget: int) -> None:
    verdicts = pseudo_labels(crops(len(scores)), np.array(scores))
    questions = queue(verdicts, budget, asked={"000.jpg"})
    doubts = [abs((item.p_open or 0) - 0.5) for item in questions]
    assert doubts == sorted(doubts)
    assert len(questions) <= budget
    assert all(item.label is None and item.file != "000.jpg" for item in questions)
    left_out = [v for v in verdicts if v.label is None and v not in questions and v.file != "000.jpg"]
    assert not left_out or (len(questions) == budget)
    assert all(abs((v.p_open or 0) - 0.5) >= max(doubts, default=0) for v in left_out)


def test_what_nobody_could_tell_is_no_label() -> None:
    answers = [Answer("a", 1, 2, 2), Answer("b", None, 2, 1)]
    assert human_labels(answers) == [Label("a", 1, None, "human")]


def test_later_sources_win_and_unknown_labels_never() -> None:
    first = [Label("b", 0, 0.1, "consensus"), Label("a", 1, 0.9, "consensus")]
    later = [Label("a", 0, None, "human"), Label("b", None, 0.5, "pseudo")]
    assert merge(first, later) == [later[0], first[0]]


class TestSoftTargets:
    def test_a_belief_stays_where_nobody_was_asked(self) -> None:
        (crop,) = soft_targets(crops(1), {"000.jpg": 0.8}, {"000.jpg": Answer("000.jpg", None, 2, 1)})
        assert crop.target == pytest.approx(0.8)
        assert crop.label == 1

    @pytest.mark.parametrize(("label", "target"), [(1, RELIABILITY), (0, 1 - RELIABILITY)])
    def test_an_answer_decides_where_the_network_does_not_know(self, label: int, target: float) -> None:
        (crop,) = soft_targets(crops(1), {"000.jpg": 0.5}, {"000.jpg": Answer("000.jpg", label, 1, label)})
        assert crop.target == pytest.approx(target)
        assert crop.label == label

    def test_an_answer_does_not_overturn_what_is_sure(self) -> None:
        (crop,) = soft_targets(crops(1), {"000.jpg": 1.0}, {"000.jpg": Answer("000.jpg", 0, 1, 0)})
        assert crop.target == pytest.approx(0.996, abs=1e-3)

    @pytest.mark.parametrize(
        ("answer", "as_sure_as"),
        [
            (Answer("000.jpg", 1, 3, 3), 3),
            (Answer("000.jpg", 1, 3, 2), 1),
            (Answer("000.jpg", 0, 5, 1), -3),
            (Answer("000.jpg", None, 2, 1), 0),
        ],
    )
    def test_votes_add_up_and_cancel_out(self, answer: Answer, as_sure_as: int) -> None:
        (crop,) = soft_targets(crops(1), {"000.jpg": 0.5}, {"000.jpg": answer})
        odds = (RELIABILITY / (1 - RELIABILITY)) ** as_sure_as
        assert crop.target == pytest.approx(odds / (1 + odds))

    @given(st.floats(0, 1), st.sampled_from([0, 1]))
    def test_an_answer_moves_the_target_towards_it(self, belief: float, label: int) -> None:
        name = {"000.jpg": belief}
        (before,) = soft_targets(crops(1), name, {})
        (after,) = soft_targets(crops(1), name, {"000.jpg": Answer("000.jpg", label, 1, label)})
        assert before.target is not None
        assert after.target is not None
        assert (after.target > before.target) == (label == 1)
        assert 0 < after.target < 1


class TestDoubtLabels:
    @given(st.floats(0, 1), st.sampled_from([0, 1]))
    def test_a_label_is_doubted_where_networks_contradict_it(self, score: float, label: int) -> None:
        crop = LabelledCrop("colour/1.jpg", b"", label, collection="colour")
        (doubted,) = doubt_labels([crop], np.array([score]))
        assert doubted.target is not None
        assert doubted.label == label
        belief = score if label else 1 - score
        if abs(belief - (1 - LABEL_RELIABILITY)) > 1e-6:
            assert (abs(doubted.target - label) > 0.5) == (belief < 1 - LABEL_RELIABILITY)

    def test_where_networks_do_not_know_it_counts_as_much_as_it_is_worth(self) -> None:
        crops = [LabelledCrop("colour/1.jpg", b"", label, collection="colour") for label in (0, 1)]
        targets = [crop.target for crop in doubt_labels(crops, np.array([0.5, 0.5]))]
        assert targets == pytest.approx([1 - LABEL_RELIABILITY, LABEL_RELIABILITY])

    def test_those_of_mrl_stand(self) -> None:
        crop = LabelledCrop("1.png", b"", 1, "s0001", collection=MRL)
        assert doubt_labels([crop], np.array([0.0])) == [crop]
