from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.label.desks import drawn
from training.data.datasets import CLOSED, OPEN, Crop, DataError
from training.data.labels import Answer, write_answers
from training.label.exchange import LABELING_CONFIG, label_studio, parse, votes_csv
from training.label.store import Vote, annotator_name, majority

NOW = datetime(2030, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
CROPS = drawn(3)
KNOWN = [crop.name for crop in CROPS]
PNG = CROPS[0].data


def is_name(text: str) -> bool:
    try:
        return annotator_name(text) == text
    except DataError:
        return False


# File names as the file system hands them to Python: any bytes but NUL.
files = st.binary(min_size=1, max_size=20).map(
    lambda name: name.replace(b"\0", b"0").decode(errors="surrogateescape")
) | st.sampled_from(["=1+1.png", "@x,y.png", 'quo"te.png', "../../etc/passwd", "眼\n.png", " .png", "﻿x.png"])
names = st.text(min_size=1, max_size=20).filter(is_name) | st.sampled_from(["anna@example.org", "O'Neil, Jr.", "眼"])
times = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=st.just(UTC))
ballots = st.lists(
    st.builds(Vote, files, names, st.sampled_from([OPEN, CLOSED, None]), times),
    min_size=1,
    unique_by=lambda vote: (vote.file, vote.annotator),
)


@given(ballots)
def test_votes_survive_the_csv(votes: list[Vote]) -> None:
    data = votes_csv(votes).encode(errors="surrogateescape")
    assert parse(data, "votes.csv", {vote.file for vote in votes}) == votes


@given(ballots)
def test_votes_survive_label_studio(votes: list[Vote]) -> None:
    crops = [Crop(file, PNG) for file in dict.fromkeys(vote.file for vote in votes)]
    data = json.dumps(label_studio(crops, votes)).encode()
    again = parse(data, "export.json", {crop.name for crop in crops})
    assert sorted(again, key=repr) == sorted(votes, key=repr)


@given(ballots)
def test_tallies_survive_the_answers_csv(tmp_path_factory: pytest.TempPathFactory, votes: list[Vote]) -> None:
    votes = [vote for vote in votes if "\r" not in vote.file] or [Vote("a", "anna", None, NOW)]
    path = tmp_path_factory.mktemp("answers") / "answers.csv"
    write_answers(path, majority(votes))
    again = majority(parse(path.read_bytes(), "answers.csv", {vote.file for vote in votes}))
    assert sorted(again, key=repr) == sorted(majority(votes), key=repr)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="surrogateescape")))
def test_any_bytes_are_refused_in_a_word(data: bytes) -> None:
    with pytest.raises(DataError):
        parse(data, "x.csv", KNOWN)


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["data", "file", "result"]), inner),
    max_leaves=8,
)


@given(json_values, st.sampled_from(["task", "data", "annotations", "annotation", "result", "value", "choices", "who"]))
def test_any_json_in_any_place_is_refused_or_read(value: Any, place: str) -> None:
    task = exported()
    annotation = task["annotations"][0]
    result = annotation["result"][0]
    match place:
        case "task":
            task = value
        case "data" | "annotations":
            task[place] = value
        case "annotation":
            task["annotations"] = [value]
        case "result":
            annotation["result"] = [value]
        case "value":
            result["value"] = value
        case "choices":
            result["value"]["choices"] = value
        case "who":
            annotation["completed_by"] = value
    with suppress(DataError):
        parse(json.dumps([task]).encode(), "x.json", KNOWN)


def exported(**changes: Any) -> dict[str, Any]:
    """A task as Label Studio exports it."""
    annotation = {
        "id": 1001,
        "completed_by": 7,
        "result": [
            {
                "id": "Dx_aB91ISN",
                "from_name": "eye",
                "to_name": "image",
                "type": "choices",
                "origin": "manual",
                "value": {"choices": ["Can't tell"]},
            }
        ],
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2030-01-02T03:04:05.000678Z",
        "updated_at": "2030-01-02T03:04:05.000678Z",
        "lead_time": 4.288,
        **changes,
    }
    return {"id": 1, "data": {"image": "x", "file": KNOWN[0]}, "annotations": [annotation], "predictions": []}


def test_an_export_of_label_studio() -> None:
    skipped = {**exported(was_cancelled=True, result=[]), "data": {"file": KNOWN[1]}}
    data = json.dumps([exported(), skipped]).encode()
    assert parse(data, "x.json", KNOWN) == [Vote(KNOWN[0], "Label Studio user 7", None, NOW)]


@pytest.mark.parametrize("who", [{"email": "anna@example.org", "id": 3}, {"email": "anna@example.org"}])
def test_a_person_of_label_studio(who: dict[str, Any]) -> None:
    (vote,) = parse(json.dumps([exported(completed_by=who)]).encode(), "x.json", KNOWN)
    assert vote.annotator == "anna@example.org"


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([{"data": {"image": "x"}}], "task 1: data.file must be text"),
        ([{"data": {"file": KNOWN[0]}}], 'in the format "JSON"'),
        ([exported(result=[])], "task 1, annotation 1: result must hold one choice, not 0"),
        ([exported(completed_by=None)], "completed_by does not say who"),
        ([exported(updated_at="yesterday")], "'yesterday' is no ISO 8601 time"),
        ([{**exported(), "data": {"file": "nowhere.png"}}], r"nowhere.png is none of the crops"),
        ({}, "the file must be an array"),
        ([], "holds no answers"),
    ],
)
def test_exports_that_are_refused(tasks: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(json.dumps(tasks).encode(), "x.json", KNOWN)


@pytest.mark.parametrize("data", [b"[" * 100_000, b"[1,", b'[{"a": ' + b"9" * 10_000 + b"}]", b"[\xff]"])
def test_malformed_json(data: bytes) -> None:
    with pytest.raises(DataError):
        parse(data, "x.json", KNOWN)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,annotator,label"], "holds no answers"),
        (["file,annotator,label", "0000.png,anna,open"], "no column answered_at"),
        (["file,annotator,label,answered_at", "0000.png,anna,,2030-01-01T00:00Z"], "line 2: label must be"),
        (["file,annotator,label,answered_at", "0000.png,=x,open,2030-01-01T00:00Z"], "line 2: an annotator's name"),
        (["file,annotator,label,answered_at", "0000.png,anna,open,2030-01-01"], "line 2: '2030-01-01' is no ISO"),
        (["file,annotator,label,answered_at", "0000.png,anna,open,2030-01-01T00:00Z,x"], "more values than columns"),
        (["file,annotator,label,answered_at", "x.png,anna,open,2030-01-01T00:00Z"], "x.png is none of the crops"),
        (["file,label", "0000.png,open", "0000.png,open"], "x.csv, line 3: 0000.png stands there twice"),
        (["file,label,annotators,votes_open", "0000.png,open,3,1"], "not what most said: 1 of 3"),
        (["file,label,annotators,votes_open", "0000.png,open,1000000000,1000000000"], "are more than"),
    ],
)
def test_csv_files_that_are_refused(lines: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse("\n".join(lines).encode(), "x.csv", KNOWN)


def test_an_answers_file_without_counts_is_one_persons() -> None:
    votes = parse(b"file,label\n0000.png,open\n0001.png,\n", "from home.csv", KNOWN)
    assert [(vote.file, vote.annotator, vote.label) for vote in votes] == [
        ("0000.png", "from home 1", OPEN),
        ("0001.png", "from home 1", None),
    ]


def test_times_are_told_in_utc() -> None:
    east = timezone(timedelta(hours=2))
    data = f"file,annotator,label,answered_at\n0000.png,anna,open,{NOW.astimezone(east).isoformat()}\n".encode()
    (vote,) = parse(data, "x.csv", KNOWN)
    assert vote.answered_at == NOW
    assert vote.answered_at.tzinfo == UTC


def test_tasks_for_label_studio_carry_the_crop() -> None:
    votes = [Vote(KNOWN[0], "anna@example.org", OPEN, NOW), Vote(KNOWN[0], "ben", None, NOW)]
    tasks: Sequence[Any] = label_studio(CROPS, votes)
    media_type, _, content = tasks[0]["data"]["image"].partition(";base64,")
    assert media_type == "data:image/png"
    assert base64.b64decode(content) == CROPS[0].data
    assert [task["data"]["file"] for task in tasks] == KNOWN
    anna, ben = tasks[0]["annotations"]
    assert anna["completed_by"] == {"email": "anna@example.org"}
    assert "completed_by" not in ben, "Label Studio refuses names that are no addresses"
    assert tasks[1]["annotations"] == []


def test_the_labelling_config_names_what_the_tasks_hold() -> None:
    config = ElementTree.fromstring(LABELING_CONFIG)
    choices = config.find("Choices")
    assert choices is not None
    votes = [Vote(KNOWN[0], str(label), label, NOW) for label in (OPEN, CLOSED, None)]
    tasks: Sequence[Any] = label_studio(CROPS, votes)
    results = [annotation["result"][0] for annotation in tasks[0]["annotations"]]
    assert {result["from_name"] for result in results} == {choices.get("name")}
    assert {result["to_name"] for result in results} == {choices.get("toName")}
    assert [result["value"]["choices"] for result in results] == [[choice.get("value")] for choice in choices]
    assert [image.get("value") for image in config.iter("Image")] == ["$image"]


def test_votes_csv_is_quoted() -> None:
    text = votes_csv([Vote('=HYPERLINK("x"),\n.png', "anna", OPEN, NOW)])
    assert next(csv.DictReader(io.StringIO(text, newline="")))["file"] == '=HYPERLINK("x"),\n.png'


def test_answers_of_a_name_with_counts(tmp_path: Path) -> None:
    write_answers(tmp_path / "a.csv", [Answer(KNOWN[0], OPEN, 3, 2), Answer(KNOWN[1], None, 2, 1)])
    votes = parse((tmp_path / "a.csv").read_bytes(), "a.csv", KNOWN)
    assert majority(votes) == [Answer(KNOWN[0], OPEN, 3, 2), Answer(KNOWN[1], None, 2, 1)]


@pytest.mark.parametrize("order", [1, -1])
def test_the_newest_answer_of_a_person_counts(order: int) -> None:
    old, new = exported(updated_at="2026-11-01T10:00:00Z"), exported(updated_at="2026-11-02T10:00:00Z")
    new["annotations"][0]["result"][0]["value"]["choices"] = ["Closed"]
    task = {**old, "annotations": [*old["annotations"], *new["annotations"]][::order]}
    (vote,) = parse(json.dumps([task]).encode(), "x.json", KNOWN)
    assert (vote.label, vote.answered_at.day) == (CLOSED, 2)
    lines = [f"{KNOWN[0]},anna,open,2030-01-01T00:00Z", f"{KNOWN[0]},anna,closed,2030-01-01T01:00Z"][::order]
    (vote,) = parse("\n".join(["file,annotator,label,answered_at", *lines]).encode(), "x.csv", KNOWN)
    assert vote.label == CLOSED


def test_of_equally_old_answers_the_last_counts() -> None:
    lines = [f"{KNOWN[0]},anna,{label},2030-01-01T00:00Z" for label in ("open", "closed", "unsure")]
    (vote,) = parse("\n".join(["file,annotator,label,answered_at", *lines]).encode(), "x.csv", KNOWN)
    assert vote.label is None
