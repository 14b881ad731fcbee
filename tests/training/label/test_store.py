from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.label.desks import drawn
from training.data.datasets import CLOSED, OPEN, DataError
from training.data.labels import Answer
from training.label.store import Imported, Store, Vote, annotator_name, majority

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
CROPS = drawn(4)
FIRST = CROPS[0].name


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "answers.sqlite3", CROPS)
    yield store
    store.close()


def said(store: Store) -> dict[tuple[str, str], int | None]:
    return {(vote.file, vote.annotator): vote.label for vote in store.votes()}


def action() -> str:
    return uuid.uuid4().hex


def test_answers_outlive_the_store(store: Store, tmp_path: Path) -> None:
    store.answer(action(), "anna", FIRST, OPEN)
    store.answer(action(), "ben", FIRST, None)
    again = Store(tmp_path / "answers.sqlite3", CROPS)
    assert said(again) == {(FIRST, "anna"): OPEN, (FIRST, "ben"): None}
    assert again.id == store.id
    again.close()


def test_an_action_that_arrives_again_changes_nothing(store: Store) -> None:
    first = action()
    store.answer(first, "anna", FIRST, OPEN)
    store.answer(action(), "anna", FIRST, CLOSED)
    store.answer(first, "anna", FIRST, OPEN)
    assert said(store) == {(FIRST, "anna"): CLOSED}


def test_the_same_answer_again_keeps_its_time(store: Store) -> None:
    store.answer(action(), "anna", FIRST, OPEN)
    (before,) = store.votes()
    store.answer(action(), "anna", FIRST, OPEN)
    assert store.votes() == [before]


def test_undo_goes_back_through_the_history(store: Store) -> None:
    names = [action() for _ in range(3)]
    for name, label in zip(names, (OPEN, CLOSED, None), strict=True):
        store.answer(name, "anna", FIRST, label)
    assert [item.previous for item in store.actions("anna")] == [None, "open", "closed"]
    assert not store.undo(names[0], "anna"), "a later answer stands on it"
    assert not store.undo(names[2], "ben"), "it is not his"
    for name, expected in ((names[2], CLOSED), (names[2], CLOSED), (names[1], OPEN)):
        assert store.undo(name, "anna")
        assert said(store) == {(FIRST, "anna"): expected}
    assert store.undo(names[0], "anna")
    assert store.votes() == []
    assert store.actions("anna") == []
    assert not store.undo(action(), "anna")


def test_unknown_crops_and_nameless_actions_are_refused(store: Store) -> None:
    with pytest.raises(DataError, match="none of the crops"):
        store.answer(action(), "anna", "../etc/passwd", OPEN)
    with pytest.raises(DataError, match="32 hexadecimal"):
        store.answer("1", "anna", FIRST, OPEN)


def test_take_in_is_all_or_nothing(store: Store) -> None:
    votes = [Vote(FIRST, "anna", OPEN, NOW), Vote("nowhere.png", "anna", OPEN, NOW)]
    with pytest.raises(DataError, match=r"nowhere\.png"):
        store.take_in(votes)
    assert store.votes() == []


def test_take_in_lets_the_newer_vote_stand(store: Store) -> None:
    store.take_in([Vote(FIRST, "anna", OPEN, NOW), Vote(CROPS[1].name, "anna", OPEN, NOW)])
    older, newer = NOW - timedelta(days=1), NOW + timedelta(days=1)
    assert store.take_in(
        [
            Vote(FIRST, "anna", CLOSED, older),
            Vote(CROPS[1].name, "anna", CLOSED, newer),
            Vote(FIRST, "ben", None, older),
            Vote(FIRST, "ben", None, newer),
        ]
    ) == Imported(changed=2, unchanged=1, outdated=1)
    assert said(store) == {(FIRST, "anna"): OPEN, (CROPS[1].name, "anna"): CLOSED, (FIRST, "ben"): None}
    assert store.actions("anna") == [], "an import is not undone by a key"


def test_many_threads(store: Store) -> None:
    def work(name: str) -> None:
        for label in (OPEN, CLOSED, None, OPEN):
            for crop in CROPS:
                store.answer(action(), name, crop.name, label)

    threads = [threading.Thread(target=work, args=(f"a{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said(store) == {(crop.name, f"a{number}"): OPEN for crop in CROPS for number in range(4)}


def test_two_processes_share_a_store(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "answers.sqlite3", CROPS)
    other.answer(action(), "ben", FIRST, CLOSED)
    store.answer(action(), "anna", FIRST, OPEN)
    assert said(other) == said(store) == {(FIRST, "anna"): OPEN, (FIRST, "ben"): CLOSED}
    other.close()


def test_a_new_queue_keeps_the_old_answers(store: Store, tmp_path: Path) -> None:
    store.answer(action(), "anna", FIRST, OPEN)
    later = Store(tmp_path / "answers.sqlite3", drawn(6)[4:])
    assert said(later) == {(FIRST, "anna"): OPEN}
    assert len(later.files) == 6
    later.close()


def test_other_images_of_the_same_name_are_refused(tmp_path: Path) -> None:
    Store(tmp_path / "answers.sqlite3", CROPS).close()
    with pytest.raises(DataError, match=r"another image named 0000\.png"):
        Store(tmp_path / "answers.sqlite3", [replace(CROPS[1], name=FIRST)])


@pytest.mark.parametrize("name", ["\udcff.png", "=1+1.png", 'a"b,c\n.png', "ä 眼.png", "../x.png"])
def test_any_file_name(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "answers.sqlite3", [replace(CROPS[0], name=name)])
    store.answer(action(), "anna", name, OPEN)
    store.close()
    again = Store(tmp_path / "answers.sqlite3", [replace(CROPS[0], name=name)])
    assert said(again) == {(name, "anna"): OPEN}
    again.close()


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite3").write_bytes(b"not a database, but longer than its header would be" * 10)
    with pytest.raises(DataError, match="no usable store"):
        Store(tmp_path / "answers.sqlite3", CROPS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="cannot open"):
        Store(tmp_path / "folder", CROPS)


def test_a_store_of_a_later_version(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "answers.sqlite3")
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(DataError, match="later version"):
        Store(tmp_path / "answers.sqlite3", CROPS)


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "a\x00b", "\udcff", "=cmd()", "+1", "-1", "@sum"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="annotator's name"):
        annotator_name(name)


def test_a_name_is_tidied() -> None:
    assert annotator_name("  Änna \t Müller ") == "Änna Müller"


@pytest.mark.parametrize(
    ("labels", "answer"),
    [
        ([OPEN, OPEN, CLOSED], Answer("a", OPEN, 3, 2)),
        ([OPEN, CLOSED, None], Answer("a", None, 2, 1)),
        ([CLOSED, None, None], Answer("a", CLOSED, 1, 0)),
        ([None, None], Answer("a", None, 0, 0)),
    ],
)
def test_majority(labels: list[int | None], answer: Answer) -> None:
    assert majority(Vote("a", str(number), label, NOW) for number, label in enumerate(labels)) == [answer]


@given(st.lists(st.sampled_from([OPEN, CLOSED, None]), min_size=1))
def test_majority_is_fair(labels: list[int | None]) -> None:
    flipped = [None if label is None else 1 - label for label in labels]
    (one,), (other,) = (
        majority(Vote("a", str(number), label, NOW) for number, label in enumerate(ballots))
        for ballots in (labels, flipped)
    )
    assert one.annotators == other.annotators == one.votes_open + other.votes_open
    assert one.label == (None if other.label is None else 1 - other.label)
