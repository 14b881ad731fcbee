"""Every annotator's answer on each crop, in an SQLite file that outlives the page, the server and the queue."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from training.data.datasets import OPEN, Crop, DataError
from training.data.labels import WORDS, Answer

UNSURE: Final = "unsure"
VOTE_WORDS: Final = {**WORDS, None: UNSURE}
VOTE_CODES: Final = {word: code for code, word in VOTE_WORDS.items()}
MAX_NAME: Final = 64  # characters of an annotator's name

_ACTION_ID: Final = re.compile("[0-9a-f]{32}")
_VERSION: Final = 1
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS store (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS crop (id INTEGER PRIMARY KEY, file TEXT NOT NULL UNIQUE, sha256 TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS vote (
    crop INTEGER NOT NULL REFERENCES crop,
    annotator TEXT NOT NULL,
    label TEXT NOT NULL CHECK (label IN ('open', 'closed', 'unsure')),
    answered_at TEXT NOT NULL,
    PRIMARY KEY (crop, annotator)
);
-- Every answer ever given; `previous` is what it replaced.
CREATE TABLE IF NOT EXISTS action (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    crop INTEGER NOT NULL REFERENCES crop,
    annotator TEXT NOT NULL,
    label TEXT NOT NULL,
    answered_at TEXT NOT NULL,
    previous TEXT,
    previous_at TEXT,
    imported INTEGER NOT NULL DEFAULT 0,
    undone INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS action_by_crop ON action (crop, annotator);
CREATE INDEX IF NOT EXISTS action_by_annotator ON action (annotator);
PRAGMA user_version = {_VERSION};
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class Vote:
    """What one annotator said of one crop: 0 (closed), 1 (open) or None (can't tell), and when (UTC)."""

    file: str
    annotator: str
    label: int | None
    answered_at: datetime


@dataclass(frozen=True, slots=True)
class Action:
    """An answer that can be undone, and the answer it replaced (a word of ``VOTE_WORDS``; None: there was none)."""

    id: str
    file: str
    previous: str | None


@dataclass(frozen=True, slots=True)
class Imported:
    """How many votes an import changed, how many were present already and how many were older than the present ones."""

    changed: int
    unchanged: int
    outdated: int


class Store:
    """The votes of all annotators. Every change is on disk when its method returns; threads and processes may share it.

    A store is about particular images: a crop that has the name of one it knows and another content is refused.
    """

    def __init__(self, path: Path, crops: Iterable[Crop]) -> None:
        """Open the store, making it where it is missing, and let it know the crops that may be voted on.

        Raises:
            DataError: the file cannot be opened, is no such store, or knows other crops under these names.
        """
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"cannot open {path}: {error}") from None
        try:
            self._prepare()
            self._ids = self._register(crops)
        except sqlite3.Error as error:
            self._db.close()
            raise DataError(f"{path} is no usable store of answers: {error}") from None
        except BaseException:
            self._db.close()
            raise
        self._files = {number: file for file, number in self._ids.items()}
        (self.id,) = self._db.execute("SELECT id FROM store").fetchone()

    def close(self) -> None:
        """Close the file; nothing is lost without it."""
        with self._lock:
            self._db.close()

    @property
    def files(self) -> Sequence[str]:
        """Every crop that may be voted on, those of earlier queues too."""
        return list(self._ids)

    def answer(self, action: str, annotator: str, file: str, label: int | None) -> None:
        """Set an annotator's vote on a crop. The same action again changes nothing, however late it comes.

        Args:
            action: name of this answer, 32 hexadecimal digits that the sender drew at random.
            annotator: who says so, in the form of ``annotator_name``.
            file: the crop.
            label: 0 (closed), 1 (open) or None (can't tell).

        Raises:
            DataError: the crop is unknown or the action has no such name.
        """
        if file not in self._ids:
            raise DataError(f"{file} is none of the crops to label")
        if not _ACTION_ID.fullmatch(action):
            raise DataError("an action is named by 32 hexadecimal digits")
        with self._transaction() as db:
            if not db.execute("SELECT 1 FROM action WHERE id = ?", (action,)).fetchone():
                self._put(db, action, Vote(file, annotator, label, datetime.now(UTC)), imported=False)

    def undo(self, action: str, annotator: str) -> bool:
        """Put back what an answer replaced. Undoing it again changes nothing.

        Returns:
            False where that cannot be: there is no such action, or the annotator answered the crop again since.
        """
        with self._transaction() as db:
            found = db.execute(
                "SELECT number, crop, previous, previous_at, undone FROM action WHERE id = ? AND annotator = ?",
                (action, annotator),
            ).fetchone()
            if found is None:
                return False
            number, crop, previous, previous_at, undone = found
            if undone:
                return True
            (last,) = db.execute(
                "SELECT max(number) FROM action WHERE crop = ? AND annotator = ? AND NOT undone", (crop, annotator)
            ).fetchone()
            if last != number:
                return False
            if previous is None:
                db.execute("DELETE FROM vote WHERE crop = ? AND annotator = ?", (crop, annotator))
            else:
                db.execute("INSERT OR REPLACE INTO vote VALUES (?, ?, ?, ?)", (crop, annotator, previous, previous_at))
            db.execute("UPDATE action SET undone = 1 WHERE number = ?", (number,))
            return True

    def take_in(self, votes: Iterable[Vote]) -> Imported:
        """Add votes from elsewhere, all or none; where an annotator has voted on the crop later, that stands.

        Raises:
            DataError: a vote is on an unknown crop; nothing is changed then.
        """
        changed = unchanged = outdated = 0
        with self._transaction() as db:
            for vote in votes:
                if vote.file not in self._ids:
                    raise DataError(f"{vote.file} is none of the crops to label")
                standing = self._standing(db, vote.file, vote.annotator)
                if standing and standing[0] == VOTE_WORDS[vote.label]:
                    unchanged += 1
                elif standing and datetime.fromisoformat(standing[1]) > vote.answered_at:
                    outdated += 1
                else:
                    changed += 1
                    self._put(db, uuid.uuid4().hex, vote, imported=True)
        return Imported(changed, unchanged, outdated)

    def votes(self) -> list[Vote]:
        """All votes, by crop in the order the store got to know them, then by annotator."""
        rows = self._rows("SELECT crop, annotator, label, answered_at FROM vote ORDER BY crop, annotator")
        return [
            Vote(self._files[crop], annotator, VOTE_CODES[label], datetime.fromisoformat(answered_at))
            for crop, annotator, label, answered_at in rows
        ]

    def actions(self, annotator: str) -> list[Action]:
        """The annotator's answers that are not undone, oldest first; imports are not actions."""
        rows = self._rows(
            "SELECT id, crop, previous FROM action WHERE annotator = ? AND NOT undone AND NOT imported ORDER BY number",
            (annotator,),
        )
        return [Action(name, self._files[crop], previous) for name, crop, previous in rows]

    def _prepare(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise DataError(f"{self._path} was written by a later version of this program")
        # Names of files are bytes: those that are no UTF-8 come back as they went in.
        self._db.text_factory = lambda data: data.decode(errors="surrogateescape")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(_SCHEMA)

    def _register(self, crops: Iterable[Crop]) -> dict[str, int]:
        """Row numbers of all crops by file."""
        with self._transaction() as db:
            if not db.execute("SELECT 1 FROM store").fetchone():
                db.execute("INSERT INTO store VALUES (?)", (uuid.uuid4().hex,))
            known = dict(db.execute("SELECT file, sha256 FROM crop"))
            for crop in crops:
                digest = hashlib.sha256(crop.data).hexdigest()
                if known.get(crop.name, digest) != digest:
                    raise DataError(
                        f"{self._path} holds answers on another image named {crop.name}; choose another --output"
                    )
                if crop.name not in known:
                    name = crop.name.encode(errors="surrogateescape")
                    db.execute("INSERT INTO crop (file, sha256) VALUES (CAST(? AS TEXT), ?)", (name, digest))
            return dict(db.execute("SELECT file, id FROM crop ORDER BY id"))

    def _put(self, db: sqlite3.Connection, action: str, vote: Vote, *, imported: bool) -> None:
        crop, word, answered_at = self._ids[vote.file], VOTE_WORDS[vote.label], vote.answered_at.isoformat()
        previous, previous_at = self._standing(db, vote.file, vote.annotator) or (None, None)
        if previous != word:
            db.execute("INSERT OR REPLACE INTO vote VALUES (?, ?, ?, ?)", (crop, vote.annotator, word, answered_at))
        db.execute(
            "INSERT INTO action (id, crop, annotator, label, answered_at, previous, previous_at, imported)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (action, crop, vote.annotator, word, answered_at, previous, previous_at, imported),
        )

    def _standing(self, db: sqlite3.Connection, file: str, annotator: str) -> tuple[str, str] | None:
        row: tuple[str, str] | None = db.execute(
            "SELECT label, answered_at FROM vote WHERE crop = ? AND annotator = ?", (self._ids[file], annotator)
        ).fetchone()
        return row

    def _rows(self, query: str, values: Sequence[str] = ()) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A change that happens whole or not at all, one at a time."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def annotator_name(text: str) -> str:
    """The name of an annotator, without spaces around it.

    Raises:
        DataError: it is empty, longer than ``MAX_NAME``, unprintable, or starts as a spreadsheet's formula does.
    """
    name = " ".join(text.split())
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise DataError(f"an annotator's name has 1 to {MAX_NAME} printable characters")
    if name[0] in "=+-@":
        raise DataError(f"an annotator's name cannot start with {name[0]}")
    return name


def majority(votes: Iterable[Vote]) -> list[Answer]:
    """The majority's answer on each crop that anyone answered. A vote of "can't tell" counts for neither side."""
    by_file: defaultdict[str, list[int]] = defaultdict(list)
    for vote in votes:
        said = by_file[vote.file]
        if vote.label is not None:
            said.append(vote.label)
    return [
        Answer(file, verdict(said.count(OPEN), len(said)), len(said), said.count(OPEN))
        for file, said in by_file.items()
    ]


def verdict(votes_open: int, annotators: int) -> int | None:
    """The majority's label: 1 (open), 0 (closed) or None (a tie, or nobody could tell)."""
    return None if 2 * votes_open == annotators else int(2 * votes_open > annotators)


def by_crop(votes: Iterable[Vote]) -> Mapping[str, list[Vote]]:
    """The votes on each crop that has any."""
    grouped: defaultdict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        grouped[vote.file].append(vote)
    return grouped
