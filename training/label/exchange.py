"""Votes to and from other tools: CSV and the JSON of Label Studio.

Label Studio takes ``label_studio`` on its import page, with ``LABELING_CONFIG`` as the project's labelling interface,
and its export in the format "JSON" is read back. It knows annotators by e-mail address and refuses a file with an
address that is no member's, so an annotator is named in ``completed_by`` only where the name is an address; the name
is always in the choice's ``meta``, which Label Studio hands on.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from PIL import Image

from eyestate.images import FORMATS
from training.data.datasets import CLOSED, OPEN, Crop, DataError
from training.data.labels import Answer, read_answers
from training.label.store import VOTE_CODES, VOTE_WORDS, Vote, annotator_name, by_crop, verdict

LABELING_CONFIG: Final = """\
<View>
  <Header value="Is this eye open or closed?"/>
  <Image name="image" value="$image" width="480px" zoom="true"/>
  <Choices name="eye" toName="image" choice="single" showInline="true" required="true">
    <Choice value="Open" hotkey="o"/>
    <Choice value="Closed" hotkey="c"/>
    <Choice value="Can't tell" hotkey="u"/>
  </Choices>
</View>
"""

_CHOICES: Final = {OPEN: "Open", CLOSED: "Closed", None: "Can't tell"}
_CHOICE_CODES: Final = {word: code for code, word in _CHOICES.items()}
_FIELDS: Final = ("file", "annotator", "label", "answered_at")
_MAX_ANNOTATORS: Final = 1_000  # behind one line of an answers file
_MAX_STEM: Final = 48  # characters of a file's name that stand for people without one
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


def votes_csv(votes: Iterable[Vote]) -> str:
    """One line per crop and annotator, ``file,annotator,label,answered_at``; the label is open, closed or unsure.

    File names stand there as they are, for the pipeline reads them: a spreadsheet may take ``=1+1.png`` for a formula.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_FIELDS)
    for vote in votes:
        writer.writerow((vote.file, vote.annotator, VOTE_WORDS[vote.label], vote.answered_at.isoformat()))
    return text.getvalue()


def label_studio(crops: Iterable[Crop], votes: Iterable[Vote]) -> list[dict[str, object]]:
    """The crops as tasks of Label Studio, images included, with the votes on them as annotations."""
    said = by_crop(votes)
    return [
        {
            "data": {"image": _data_uri(crop.data), "file": crop.name},
            "annotations": [_annotation(vote) for vote in said.get(crop.name, [])],
        }
        for crop in crops
    ]


def parse(data: bytes, name: str, known: Collection[str]) -> list[Vote]:
    """Read votes from a file: Label Studio's JSON, ``votes_csv``, or answers in the form of ``training.data.labels``.

    An answers file counts people without naming them: they become ``<name> 1``, ``<name> 2`` and so on, now. Where
    somebody answers a crop more than once, the newest answer counts, of equally old ones the last.

    Args:
        data: the file.
        name: of the file, for messages and for people without a name.
        known: the crops that may be voted on.

    Raises:
        DataError: the file is none of these, or anything in it does not hold.
    """
    if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"[", b"{")):
        votes = list(_parse_label_studio(data))
    else:
        text = data.decode("utf-8-sig", errors="surrogateescape")
        if "annotator" in text.partition("\n")[0].rstrip("\r").replace('"', "").split(","):
            votes = list(_parse_votes(text))
        else:
            votes = list(_spread(_parse_answers(data, name).values(), annotator_name(Path(name).stem[:_MAX_STEM])))
    if not votes:
        raise DataError(f"{name} holds no answers")
    files = frozenset(known)
    newest: dict[tuple[str, str], Vote] = {}
    for vote in votes:
        if vote.file not in files:
            raise DataError(f"{vote.file} is none of the crops to label")
        earlier = newest.get((vote.file, vote.annotator))
        if earlier is None or earlier.answered_at <= vote.answered_at:
            newest[vote.file, vote.annotator] = vote
    return list(newest.values())


def _parse_votes(text: str) -> Iterator[Vote]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row:
                raise DataError(f"{where}: more values than columns")
            absent = [field for field in _FIELDS if field not in row]
            if absent:
                raise DataError(f"there is no column {', '.join(absent)}; {', '.join(_FIELDS)} are needed")
            if row["label"] not in VOTE_CODES:
                raise DataError(f"{where}: label must be {', '.join(VOTE_CODES)}, not {row['label']!r}")
            yield Vote(
                row["file"], _name(row["annotator"], where), VOTE_CODES[row["label"]], _time(row["answered_at"], where)
            )
    except csv.Error as error:
        raise DataError(f"this is no CSV file: {error}") from None


def _parse_answers(data: bytes, name: str) -> Mapping[str, Answer]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.csv"
        path.write_bytes(data)
        try:
            return read_answers(path)
        except DataError as error:
            raise DataError(error.message.replace(str(path), name)) from None


def _spread(answers: Iterable[Answer], name: str) -> Iterator[Vote]:
    """Votes that make up the answers, by people who are only counted."""
    now = datetime.now(UTC)
    for answer in answers:
        if answer.annotators > _MAX_ANNOTATORS:
            raise DataError(f"{answer.file}: {answer.annotators} annotators are more than {_MAX_ANNOTATORS}")
        if answer.label != verdict(answer.votes_open, answer.annotators):
            raise DataError(
                f"{answer.file}: the label is not what most said: {answer.votes_open} of {answer.annotators} said open"
            )
        ballots = [OPEN] * answer.votes_open + [CLOSED] * (answer.annotators - answer.votes_open)
        for number, label in enumerate(ballots or (None,), 1):
            yield Vote(answer.file, annotator_name(f"{name} {number}"), label, now)


def _annotation(vote: Vote) -> dict[str, object]:
    at = vote.answered_at.isoformat()
    result = {
        "from_name": "eye",
        "to_name": "image",
        "type": "choices",
        "value": {"choices": [_CHOICES[vote.label]]},
        "meta": {"annotator": vote.annotator},
    }
    known_there = {"completed_by": {"email": vote.annotator}} if _EMAIL.fullmatch(vote.annotator) else {}
    return {**known_there, "created_at": at, "updated_at": at, "was_cancelled": False, "result": [result]}


def _data_uri(data: bytes) -> str:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        media_type = Image.MIME[image.format or "PNG"]
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _parse_label_studio(data: bytes) -> Iterator[Vote]:
    try:
        tasks = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"this is no JSON: {error}") from None
    for number, task in enumerate(_array(tasks, "the file"), 1):
        where = f"task {number}"
        file = _text(_object(_object(task, where).get("data"), f"{where}: data").get("file"), f"{where}: data.file")
        annotations = task.get("annotations")
        if annotations is None:
            raise DataError(f'{where} has no annotations; export from Label Studio in the format "JSON"')
        for place, annotation in enumerate(_array(annotations, f"{where}: annotations"), 1):
            here = f"{where}, annotation {place}"
            if not _object(annotation, here).get("was_cancelled"):  # skipped by the annotator: nothing was said
                yield _parse_annotation(file, annotation, here)


def _parse_annotation(file: str, annotation: Mapping[str, Any], where: str) -> Vote:
    results = _array(annotation.get("result"), f"{where}: result")
    if len(results) != 1:
        raise DataError(f"{where}: result must hold one choice, not {len(results)}")
    result = _object(results[0], f"{where}: result")
    form = (result.get("type"), result.get("from_name"), result.get("to_name"))
    if form != ("choices", "eye", "image"):
        raise DataError(f"{where}: result must be of type choices, from eye to image, as in the labelling config")
    match _object(result.get("value"), f"{where}: value").get("choices"):
        case [str(choice)] if choice in _CHOICE_CODES:
            label = _CHOICE_CODES[choice]
        case other:
            raise DataError(f"{where}: choices must be one of {', '.join(_CHOICE_CODES)}, not {other!r:.80}")
    stamp = annotation.get("updated_at") or annotation.get("created_at")
    at = datetime.now(UTC) if stamp is None else _time(_text(stamp, f"{where}: updated_at"), where)
    return Vote(file, _name(_who(annotation, result, where), where), label, at)


def _who(annotation: Mapping[str, Any], result: Mapping[str, Any], where: str) -> str:
    match result.get("meta"), annotation.get("completed_by"):
        case ({"annotator": str(name)}, _) | (_, {"email": str(name)}):
            return name
        case (_, {"id": int(number)}) | (_, int(number)):
            return f"Label Studio user {number}"
    raise DataError(f"{where}: completed_by does not say who answered")


def _name(text: str, where: str) -> str:
    try:
        return annotator_name(text)
    except DataError as error:
        raise DataError(f"{where}: {error.message}") from None


def _time(text: str, where: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise ValueError
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise DataError(f"{where}: {text!r:.80} is no ISO 8601 time with its offset from UTC") from None


def _array(value: Any, what: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise DataError(f"{what} must be an array")
    return value


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{what} must be an object")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{what} must be text")
    return value
