from __future__ import annotations

import contextlib
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.conftest import far_crops
from training.data.datasets import Crop, DataError, load_crops
from training.data.labels import (
    Answer,
    Label,
    Source,
    agreed,
    apply,
    read_agreed,
    read_answers,
    read_beliefs,
    read_held_out,
    read_labels,
    write_answers,
    write_labels,
)
from training.data.split import hold_out

names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
labels = st.builds(
    Label,
    file=names,
    label=st.sampled_from([0, 1, None]),
    p_open=st.none() | st.integers(0, 1_000_000).map(lambda n: n / 1_000_000),
    source=st.sampled_from(get_args(Source)),
)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    annotators = draw(st.integers(0, 5))
    votes_open = draw(st.integers(0, annotators))
    label = None if 2 * votes_open == annotators else int(2 * votes_open > annotators)
    return Answer(draw(names), label, annotators, votes_open)


@given(st.lists(labels, unique_by=lambda item: item.file))
def test_labels_come_back_in_their_order(tmp_path_factory: pytest.TempPathFactory, written: list[Label]) -> None:
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    write_labels(path, written)
    assert read_labels(path) == written


@given(st.lists(answers(), unique_by=lambda item: item.file))
def test_answers_come_back(tmp_path_factory: pytest.TempPathFactory, written: list[Answer]) -> None:
    path = tmp_path_factory.mktemp("answers") / "answers.csv"
    write_answers(path, written)
    assert list(read_answers(path).values()) == sorted(written, key=lambda item: item.file)


def test_an_answer_without_counts_is_one_persons(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,label\na.jpg,open\nb.jpg,closed\nc.jpg,\n")
    assert list(read_answers(tmp_path / "a.csv").values()) == [
        Answer("a.jpg", 1, 1, 1),
        Answer("b.jpg", 0, 1, 0),
        Answer("c.jpg", None, 0, 0),
    ]


@pytest.mark.parametrize(
    ("answer", "unanimous"),
    [
        (Answer("", 1, 1, 1), False),
        (Answer("", 1, 2, 2), True),
        (Answer("", 0, 3, 0), True),
        (Answer("", 1, 3, 2), False),
        (Answer("", None, 0, 0), False),
    ],
)
def test_unanimous(answer: Answer, unanimous: bool) -> None:
    assert answer.unanimous == unanimous


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\na,open\n", "no column p_open, source"),
        ("", "no column file, label"),
        ("file,label,p_open,source\na,ajar,,human\n", "line 2: label must be open, closed or empty, not 'ajar'"),
        ("file,label,p_open,source\na,open,2,pseudo\n", "line 2: p_open must be from 0 to 1"),
        ("file,label,p_open,source\na,open,nan,pseudo\n", "line 2: p_open must be from 0 to 1"),
        ("file,label,p_open,source\na,open,high,pseudo\n", "line 2: p_open is no number"),
        ("file,label,p_open,source\na,open,,oracle\n", "line 2: source must be one of"),
        ("file,label,p_open,source\na,open,,human\na,open,,human\n", "line 3: a stands there twice"),
        ("file,label,p_open,source\na,open,,human,more\n", "line 2: more values than columns"),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("row", "message"), [("a,open,1,2", "cannot have voted"), ("a,open,x,1", "must be whole numbers")]
)
def test_bad_answers_are_named(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "answers.csv").write_text(f"file,label,annotators,votes_open\n{row}\n")
    with pytest.raises(DataError, match=message):
        read_answers(tmp_path / "answers.csv")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_labels(tmp_path / "none.csv")


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_readers(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "labels.csv"
    path.write_bytes(b"file,label,p_open,source\n" + content)
    for read in (read_labels, read_answers):
        with contextlib.suppress(DataError):
            read(path)


def test_apply_labels_the_crops_that_have_one() -> None:
    crops = [Crop(name, b"") for name in ("c", "a", "b")]
    known = [Label("a", 1, 0.9, "pseudo"), Label("b", None, 0.5, "pseudo"), Label("c", 0, None, "human")]
    assert [(crop.name, crop.label) for crop in apply(crops, known)] == [("c", 0), ("a", 1)]


def test_apply_misses_no_crop() -> None:
    with pytest.raises(DataError, match="1 labels are for crops that are not there, such as b"):
        apply([Crop("a", b"")], [Label("b", 1, None, "human")])


def test_only_crops_on_which_two_people_agree_are_tested_on() -> None:
    crops = [Crop(name, b"") for name in ("one", "tie", "two", "three", "nobody")]
    answers = {
        "one": Answer("one", 1, 1, 1),
        "tie": Answer("tie", None, 2, 1),
        "two": Answer("two", 0, 2, 0),
        "three": Answer("three", 1, 3, 2),
    }
    assert [(crop.name, crop.label) for crop in agreed(crops, answers)] == [("two", 0)]


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    for number, (data, _) in enumerate(far_crops(24, seed=5)):
        (folder / f"{number:06}.jpg").write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def held_out(crops: Path) -> list[Crop]:
    return hold_out(load_crops(crops).crops)[1]


class TestHeldOut:
    def test_all_have_the_label_of_their_collection(self, crops: Path, held_out: list[Crop], tmp_path: Path) -> None:
        rows = [f"{crop.name},{('closed', 'open')[place % 2]}" for place, crop in enumerate(held_out)]
        (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows, "another.jpg,open", ""]))
        found = read_held_out(crops, tmp_path / "labels.csv")
        assert found == [crop.labelled(place % 2) for place, crop in enumerate(held_out)]
        assert found

    @pytest.mark.parametrize("word", ["", None])
    def test_one_without_a_label_is_named(
        self, crops: Path, held_out: list[Crop], tmp_path: Path, word: str | None
    ) -> None:
        first, *rest = held_out
        rows = [f"{crop.name},open" for crop in rest] + ([] if word is None else [f"{first.name},{word}"])
        (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows, ""]))
        with pytest.raises(DataError, match=f"no label for 1 of the held-out crops, such as {first.name}"):
            read_held_out(crops, tmp_path / "labels.csv")

    def test_the_easy_ones_are_those_on_which_people_agree(
        self, crops: Path, held_out: list[Crop], tmp_path: Path
    ) -> None:
        sure, torn, *_ = held_out
        known = {crop.name for crop in held_out}
        learnt_from = next(crop for crop in load_crops(crops).crops if crop.name not in known)
        answers = [Answer(sure.name, 1, 2, 2), Answer(torn.name, 1, 3, 2), Answer(learnt_from.name, 0, 2, 0)]
        write_answers(tmp_path / "answers.csv", answers)
        assert read_agreed(crops, tmp_path / "answers.csv") == [sure.labelled(1)]


def test_beliefs_are_of_every_crop(tmp_path: Path) -> None:
    write_labels(tmp_path / "labels.csv", [Label("a", None, 0.25, "pseudo"), Label("b", 1, 0.99, "pseudo")])
    assert read_beliefs(tmp_path / "labels.csv") == {"a": 0.25, "b": 0.99}
    write_labels(tmp_path / "labels.csv", [Label("a", 1, None, "human")])
    with pytest.raises(DataError, match="must give p_open of every crop"):
        read_beliefs(tmp_path / "labels.csv")
