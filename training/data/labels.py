"""Labels of unlabelled crops, by networks and people, in CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from eyestate.atomic import write_atomically
from training.data.datasets import CLOSED, OPEN, Crop, DataError, LabelledCrop, load_crops
from training.data.split import hold_out

Source = Literal["consensus", "pseudo", "human"]

BUDGET: Final = 250  # crops that people are asked about, over all queues
WORDS: Final = {CLOSED: "closed", OPEN: "open", None: ""}
_CODES: Final = {word: code for code, word in WORDS.items()}
_FIELDS: Final = ("file", "label", "p_open", "source")


@dataclass(frozen=True, slots=True)
class Label:
    """The label of one crop, or a belief in one.

    ``label`` is 0 (closed), 1 (open) or None (unknown), ``p_open`` the belief in 1 in [0, 1] (None: not estimated).
    """

    file: str
    label: int | None
    p_open: float | None
    source: Source


@dataclass(frozen=True, slots=True)
class Answer:
    """People's answer on one crop: the majority (None: a tie, or nobody could tell) and the votes behind it."""

    file: str
    label: int | None
    annotators: int
    votes_open: int

    @property
    def unanimous(self) -> bool:
        """At least two people decided, and all of them alike."""
        return self.annotators >= 2 and self.votes_open in (0, self.annotators)


def write_labels(path: Path, labels: Iterable[Label]) -> None:
    """Write ``file,label,p_open,source`` in the given order; the file is replaced whole or not at all."""
    rows = [
        (item.file, WORDS[item.label], "" if item.p_open is None else f"{item.p_open:.6f}", item.source)
        for item in labels
    ]
    write_csv(path, _FIELDS, rows)


def read_labels(path: Path) -> list[Label]:
    """Read what ``write_labels`` wrote.

    Raises:
        DataError: the file is missing, is no such CSV, names a crop twice or holds a value that is out of range.
    """
    labels = []
    for line, row in _rows(path, _FIELDS):
        try:
            p_open = float(row["p_open"]) if row["p_open"] else None
        except ValueError:
            raise DataError(f"{path}, line {line}: p_open is no number: {row['p_open']!r}") from None
        if p_open is not None and not 0 <= p_open <= 1:
            raise DataError(f"{path}, line {line}: p_open must be from 0 to 1, not {p_open}")
        source = next((known for known in get_args(Source) if known == row["source"]), None)
        if source is None:
            raise DataError(f"{path}, line {line}: source must be one of {', '.join(get_args(Source))}")
        labels.append(Label(row["file"], _code(path, line, row["label"]), p_open, source))
    return labels


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Write ``file,label,annotators,votes_open``, sorted by file; the file is replaced whole or not at all."""
    rows = [
        (item.file, WORDS[item.label], item.annotators, item.votes_open)
        for item in sorted(answers, key=lambda item: item.file)
    ]
    write_csv(path, ("file", "label", "annotators", "votes_open"), rows)


def read_answers(path: Path) -> dict[str, Answer]:
    """Read people's answers, by file: ``file,label`` and, where known, ``annotators,votes_open``.

    An empty label means that nobody could tell. Without counts every answer counts as one person's.

    Raises:
        DataError: the file is missing, is no such CSV, names a crop twice or holds a value that is out of range.
    """
    answers = {}
    for line, row in _rows(path, ("file", "label")):
        label = _code(path, line, row["label"])
        try:
            annotators = int(row.get("annotators") or (label is not None))
            votes_open = int(row.get("votes_open") or (label == OPEN))
        except ValueError:
            raise DataError(f"{path}, line {line}: annotators and votes_open must be whole numbers") from None
        if not 0 <= votes_open <= annotators:
            raise DataError(f"{path}, line {line}: {votes_open} of {annotators} annotators cannot have voted open")
        answers[row["file"]] = Answer(row["file"], label, annotators, votes_open)
    return answers


def apply(crops: Sequence[Crop], labels: Iterable[Label]) -> list[LabelledCrop]:
    """The crops that have a label, with it, in their own order.

    Raises:
        DataError: a label is for a crop that is not there.
    """
    known: Mapping[str, int] = {item.file: item.label for item in labels if item.label is not None}
    missing = sorted(set(known) - {crop.name for crop in crops})
    if missing:
        raise DataError(f"{len(missing)} labels are for crops that are not there, such as {missing[0]}")
    return [crop.labelled(known[crop.name]) for crop in crops if crop.name in known]


def agreed(crops: Sequence[Crop], answers: Mapping[str, Answer]) -> list[LabelledCrop]:
    """The crops on which at least two people decided and all of them alike, with that label."""
    return [
        crop.labelled(answer.label)
        for crop in crops
        if (answer := answers.get(crop.name)) is not None and answer.unanimous and answer.label is not None
    ]


def read_held_out(crops: Path, labels: Path) -> list[LabelledCrop]:
    """All held-out crops, with the label that their collection gives them.

    Args:
        crops: the unlabelled crops, zip or folder.
        labels: a CSV, ``file,label``.

    Raises:
        DataError: as ``load_crops`` and ``read_answers``, or a held-out crop has no label in the file.
    """
    held_out = hold_out(load_crops(crops).crops)[1]
    known = {answer.file: answer.label for answer in read_answers(labels).values()}
    missing = [crop.name for crop in held_out if known.get(crop.name) is None]
    if missing:
        raise DataError(f"{labels} has no label for {len(missing)} of the held-out crops, such as {missing[0]}")
    return [crop.labelled(label) for crop in held_out if (label := known[crop.name]) is not None]


def read_agreed(crops: Path, human_labels: Path) -> list[LabelledCrop]:
    """The easy part of the held-out crops: those on which at least two people agree, with that label.

    Args:
        crops: the unlabelled crops, zip or folder.
        human_labels: a CSV of answers.

    Raises:
        DataError: as ``load_crops`` and ``read_answers``.
    """
    return agreed(hold_out(load_crops(crops).crops)[1], read_answers(human_labels))


def read_all_answers(files: Iterable[Path]) -> dict[str, Answer]:
    """People's answers, by crop, of all files; ``BUDGET`` holds for all of them together.

    Raises:
        DataError: people were asked about more than ``BUDGET`` crops.
    """
    answers: dict[str, Answer] = {}
    for file in files:
        answers |= read_answers(file)
    if len(answers) > BUDGET:
        raise DataError(f"people were asked about {len(answers)} crops; the budget is {BUDGET}")
    return answers


def read_beliefs(path: Path) -> dict[str, float]:
    """P(open) by file.

    Raises:
        DataError: the file is no CSV of labels, or a crop in it has no P(open).
    """
    labels = read_labels(path)
    if any(item.p_open is None for item in labels):
        raise DataError(f"{path} must give p_open of every crop")
    return {item.file: item.p_open for item in labels if item.p_open is not None}


def read_scores(path: Path, files: Sequence[str]) -> npt.NDArray[np.float64]:
    """P(open) of each of the files (N,), float64.

    Raises:
        DataError: as ``read_beliefs``, or the CSV lacks a file.
    """
    scores = read_beliefs(path)
    missing = [file for file in files if file not in scores]
    if missing:
        raise DataError(f"{path} lacks {missing[0]} and {len(missing) - 1} more; give `python -m training score`")
    return np.array([scores[file] for file in files])


def write_csv(path: Path, fields: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with a header; the file is replaced whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def _rows(path: Path, fields: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Line number and content of each row.

    Raises:
        DataError: the file is missing or no CSV with these fields, or two rows are about one crop.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file, restval="")
            present = reader.fieldnames or ()
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except csv.Error as error:
        raise DataError(f"{path} is no CSV file: {error}") from None
    absent = [field for field in fields if field not in present]
    if absent:
        raise DataError(f"{path} has no column {', '.join(absent)}; it needs {', '.join(fields)}")
    seen: set[str] = set()
    for line, row in rows:
        if None in row:
            raise DataError(f"{path}, line {line}: more values than columns")
        if row["file"] in seen:
            raise DataError(f"{path}, line {line}: {row['file']} stands there twice")
        seen.add(row["file"])
    return rows


def _code(path: Path, line: int, word: str) -> int | None:
    if word not in _CODES:
        raise DataError(f"{path}, line {line}: label must be open, closed or empty, not {word!r}")
    return _CODES[word]
