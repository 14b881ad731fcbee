"""The input of a batch job, divided into parts that can be read independently."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal, NamedTuple

from eyestate.batch.containers import ARCHIVES, PARQUET, Columns, Image, count, images, is_image, within_limits
from eyestate.errors import ImageError, InputChangedError, InputError, UnreadableFileError
from eyestate.images import read

Kind = Literal["images", "list", "archives", "parquet"]
_NAMES: Final = 1_000  # per slice


class Row(NamedTuple):
    """One image of the input, or the error that prevented reading it."""

    source: str | None  # the archive or Parquet file it is from
    key: str
    image: bytes | ImageError


@dataclass(frozen=True, slots=True)
class Files:
    """Rows that are files of their own, named relative to a folder."""

    folder: Path
    names: tuple[str, ...]

    @property
    def rows(self) -> int:
        return len(self.names)

    def slice(self, start: int, stop: int) -> Files:
        return Files(self.folder, self.names[start:stop])


@dataclass(frozen=True, slots=True)
class Span:
    """Rows of one archive or Parquet file, from position ``start`` up to ``stop`` (excluded)."""

    path: Path
    source: str
    columns: Columns
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start

    def slice(self, start: int, stop: int) -> Span:
        return Span(self.path, self.source, self.columns, self.start + start, self.start + stop)


Slice = Files | Span


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one output file."""

    number: int
    first: int  # position of its first row in the input
    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.slices)


@dataclass(frozen=True, slots=True)
class Input:
    """A whole input: its size, its fingerprint, and the rows in order."""

    kind: Kind
    rows: int
    fingerprint: str
    slices: Callable[[], Iterator[Slice]]

    def parts(self, rows_per_part: int) -> Iterator[Part]:
        """The input divided into parts of ``rows_per_part`` rows; the last one may be shorter.

        Raises:
            InputChangedError: the input no longer has the rows it had when it was opened.
        """
        number, first, pieces, missing = 0, 0, list[Slice](), rows_per_part
        for piece in self.slices():
            start = 0
            while start < piece.rows:
                stop = min(piece.rows, start + missing)
                pieces.append(piece.slice(start, stop))
                missing -= stop - start
                start = stop
                if missing == 0:
                    yield Part(number, first, tuple(pieces))
                    number, first, pieces, missing = number + 1, first + rows_per_part, [], rows_per_part
        if pieces:
            yield Part(number, first, tuple(pieces))
        if first + rows_per_part - missing != self.rows:
            raise InputChangedError("the input changed while it was being read; run the job again once it is stable")


def open_input(names: Iterable[str], columns: Columns) -> Input:
    """Open the input of a job.

    The fingerprint is a SHA-256 over the names, sizes and modification times of all files, in order.

    Args:
        names: a folder, which is searched recursively in sorted order, a text file that lists an image per line, or
            archives or Parquet files, given one by one or as a pattern such as ``shards/*.tar``.
        columns: where Parquet has images and keys.

    Raises:
        InputError: there is nothing to score, or there are several kinds of input.
    """
    paths = sorted({path for name in names for path in _expanded(name)})
    if len(paths) == 1 and paths[0].is_dir():
        return _folder(paths[0], columns)
    if len(paths) == 1 and paths[0].suffix.lower() == ".txt":
        return _list(paths[0])
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return _containers(root, [os.path.relpath(path, root) for path in paths], columns)


def _expanded(name: str) -> list[Path]:
    path = Path(name)
    found = [path] if path.exists() else [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207
    if not found:
        raise InputError(f"there is no {name}")
    return found


class _Fingerprint:
    def __init__(self, *what: str | None) -> None:
        self._hash = hashlib.sha256(repr(what).encode())

    def add(self, name: str, path: Path | os.DirEntry[str]) -> None:
        try:
            stat = path.stat()
            told = f"{stat.st_size} {stat.st_mtime_ns}"
        except (OSError, ValueError):
            told = "missing"
        self._hash.update(f"{name}\0{told}\0".encode(errors="surrogateescape"))

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _folder(folder: Path, columns: Columns) -> Input:
    """Images one by one, or the archives or Parquet files, whichever the folder holds."""
    fingerprint, rows, containers = _Fingerprint("images"), 0, list[str]()
    for name, entry in _walk(folder):
        if is_image(name):
            fingerprint.add(name, entry)
            rows += 1
        else:
            containers.append(name)
    if rows and containers:
        raise InputError(
            f"{folder} holds both images and {containers[0]}: give the images a folder of their own, or name the "
            f"others with a pattern such as '{folder}/*{Path(containers[0]).suffix}'"
        )
    if containers:
        return _containers(folder, containers, columns)
    if not rows:
        raise InputError(f"{folder} holds no images, no archives ({', '.join(ARCHIVES)}) and no Parquet")
    return Input(
        "images",
        rows,
        fingerprint.hexdigest(),
        lambda: _files(folder, (name for name, _ in _walk(folder) if is_image(name))),
    )


def _walk(folder: Path | os.DirEntry[str], prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything in a folder that can be scored, sorted in each folder by name, hidden files left out.

    Links to folders are not followed, since they may form loops.
    """
    try:
        with os.scandir(folder) as entries:
            visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from None
    for entry in visible:
        name = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry, f"{name}/")
        elif (is_image(name) or name.lower().endswith((*ARCHIVES, PARQUET))) and entry.is_file():
            yield name, entry


def _list(path: Path) -> Input:
    """A text file with the path of an image in each line, relative to the list's own folder."""
    fingerprint, rows = _Fingerprint("list"), 0
    for name in _lines(path):
        fingerprint.add(name, path.parent / name)
        rows += 1
    if not rows:
        raise InputError(f"{path} is empty; it must have the path of an image in each line")
    return Input("list", rows, fingerprint.hexdigest(), lambda: _files(path.parent, _lines(path)))


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
            yield from (name for line in lines if (name := line.rstrip("\r\n")))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _files(folder: Path, names: Iterator[str]) -> Iterator[Files]:
    while chunk := tuple(islice(names, _NAMES)):
        yield Files(folder, chunk)


def _containers(root: Path, names: list[str], columns: Columns) -> Input:
    """The images in archives, or in Parquet files."""
    kinds: set[Kind] = {"parquet" if name.lower().endswith(PARQUET) else "archives" for name in names}
    unknown = [name for name in names if not name.lower().endswith((*ARCHIVES, PARQUET))]
    if unknown or len(kinds) > 1:
        raise InputError(
            f"{unknown[0] if unknown else root} cannot be read here: give a folder, a list (.txt) of images, archives "
            f"({', '.join(ARCHIVES)}), or Parquet files (.parquet), and only one of these kinds"
        )
    (kind,) = kinds
    fingerprint = _Fingerprint(kind, *(columns if kind == "parquet" else ()))
    spans = []
    for name in names:
        path = root / name
        fingerprint.add(name, path)
        spans.append(Span(path, name, columns, 0, count(path, columns)))
    rows = sum(span.rows for span in spans)
    if not rows:
        raise InputError(f"there are no images in {', '.join(names[:3])}{' …' if len(names) > 3 else ''}")
    return Input(kind, rows, fingerprint.hexdigest(), lambda: iter(spans))


class Reader:
    """Reads parts in sequence. A file that continues in the next part stays open, so the reader must be closed."""

    def __init__(self) -> None:
        self._images: Generator[Image, None, None] | None = None
        self._next: tuple[Path, int] | None = None  # the file that is open, and the place it is read up to

    def rows(self, part: Part) -> Iterator[Row]:
        """The rows of a part, each read when it is consumed.

        Raises:
            InputChangedError: a file has fewer images than when the input was opened.
        """
        for piece in part.slices:
            if isinstance(piece, Files):
                for name in piece.names:
                    yield Row(None, name, _file(piece.folder / name))
            else:
                yield from self._span(piece)

    def close(self) -> None:
        """Close the file that is open."""
        if self._images is not None:
            self._images.close()

    def _span(self, span: Span) -> Iterator[Row]:
        if self._images is None or self._next != (span.path, span.start):
            self.close()
            self._images = images(span.path, span.start, span.columns)
        for place in range(span.start, span.stop):
            image = next(self._images, None)
            if image is None:
                raise InputChangedError(f"{span.path} had {span.stop} images or more and now has {place}")
            self._next = (span.path, place + 1)
            yield Row(span.source, image.key, image.data)


def _file(path: Path) -> bytes | ImageError:
    try:
        if not path.is_file():  # not a pipe either, which would block
            return UnreadableFileError(f"there is no file {path}")
        return within_limits(read(path))
    except ImageError as error:
        return error
    except OSError as error:
        return UnreadableFileError(f"cannot read {path}: {error.strerror}")
