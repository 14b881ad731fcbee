"""The input of a batch job, divided into parts that can be read independently."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Set
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from stat import S_ISREG
from typing import Final, Literal, NamedTuple

from eyestate.batch import delta
from eyestate.batch.containers import ARCHIVES, count, images
from eyestate.batch.lists import lines
from eyestate.batch.parquet import Columns
from eyestate.batch.reading import Image, located, read_file
from eyestate.errors import ImageError, InputChangedError, InputError, UnavailableFileError, UnreadableFileError
from eyestate.files import PARQUET, LeftOut, is_hidden, is_image, walk

Kind = Literal["images", "list", "archives", "parquet"]
LISTS: Final = (".txt", ".csv", ".tsv")
_NAMES: Final = 1_000  # per slice
_SHOWN_NAME: Final = 200  # characters


class Row(NamedTuple):
    """One image of the input, or the error that prevented reading it."""

    source: str | None  # the archive or Parquet file it is from
    key: str
    image: bytes | ImageError


@dataclass(frozen=True, slots=True)
class Files:
    """Rows that are files of their own, named relative to a folder; those in ``missing`` have never been there."""

    folder: Path
    names: tuple[str, ...]
    missing: Set[str]

    @property
    def rows(self) -> int:
        return len(self.names)

    def slice(self, start: int, stop: int) -> Files:
        return Files(self.folder, self.names[start:stop], self.missing)


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
    """A whole input: its size, its fingerprint, the rows in order, and what was left out."""

    kind: Kind
    rows: int
    fingerprint: str
    slices: Callable[[], Iterator[Slice]]
    left_out: LeftOut

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
        names: a folder, which is searched recursively in sorted order, a Delta table, a text file that lists an image
            per line, or archives or Parquet files, given one by one or as a pattern such as ``shards/*.tar``.
        columns: where Parquet has images and keys.

    Raises:
        InputError: there is nothing to score, or there are several kinds of input.
    """
    left_out = LeftOut()
    paths = sorted({path for name in names for path in _expanded(name, left_out)})
    if len(paths) == 1 and paths[0].is_dir():
        return _folder(paths[0], columns, left_out)
    if len(paths) == 1 and paths[0].suffix.lower() in LISTS:
        return _list(paths[0], left_out)
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return _containers(root, [os.path.relpath(path, root) for path in paths], columns, left_out)


def _expanded(name: str, left_out: LeftOut) -> list[Path]:
    """What a name or a pattern stands for; hidden files only where the pattern names them."""
    path = Path(name)
    if not name:
        raise InputError("the name of the input is empty")
    if path.exists():
        return [path]
    matches = [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207
    fixed = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
    found = [match for match in matches if not is_hidden(os.path.relpath(match, fixed))]
    left_out.hidden += len(matches) - len(found)
    if not found:
        raise InputError(f"there is no {name}")
    for table in {match.parent for match in found}:
        if delta.is_table(table):
            raise InputError(f"{table} is a Delta table, with files of earlier versions: give the folder itself")
        _check_no_other_table(table)
    return found


class _Fingerprint:
    def __init__(self, *what: str | None) -> None:
        self._hash = hashlib.sha256(repr(what).encode())
        self.found = False  # whether there was anything
        self.missing: set[str] = set()  # files

    def add(self, name: str, path: Path | os.DirEntry[str]) -> None:
        try:
            stat = path.stat()
            told = f"{stat.st_size} {stat.st_mtime_ns}"
            self.found = True
            is_file = S_ISREG(stat.st_mode)
        except (OSError, ValueError):
            told, is_file = "missing", False
        if not is_file:
            self.missing.add(name)
        self._hash.update(f"{name}\0{told}\0".encode(errors="surrogateescape"))

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _folder(folder: Path, columns: Columns, left_out: LeftOut) -> Input:
    """Images one by one, or the archives or Parquet files, whichever the folder holds."""
    if delta.is_table(folder):
        return _containers(folder, delta.present_files(folder), columns, left_out)
    fingerprint, rows, containers = _Fingerprint("images"), 0, list[str]()
    for name, entry in walk(folder, _is_data, left_out):
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
    for parent in {parent for name in containers for parent in (folder / name).parents}:
        if parent.is_relative_to(folder):
            if delta.is_table(parent):
                raise InputError(f"{folder} holds the Delta table {parent}: give that itself")
            _check_no_other_table(parent)
    if containers:
        return _containers(folder, containers, columns, left_out)
    if not rows:
        also = f"; {left_out}" if left_out else ""
        raise InputError(f"{folder} holds no images, no archives ({', '.join(ARCHIVES)}) and no Parquet{also}")
    names = partial(walk, folder, _is_data, LeftOut())
    return Input(
        "images",
        rows,
        fingerprint.hexdigest(),
        lambda: _files(folder, (name for name, _ in names()), frozenset()),
        left_out,
    )


def _check_no_other_table(folder: Path) -> None:
    """Raise InputError if a folder is a table in a format whose present version is not told by its Parquet files."""
    for kind, sign in {"Iceberg": "metadata/*.metadata.json*", "Hudi": ".hoodie"}.items():
        if any(folder.glob(sign)):
            raise InputError(
                f"{folder} is a table of Apache {kind}, with files of earlier versions: write its present version to "
                "plain Parquet files"
            )


def _is_data(name: str) -> bool:
    return is_image(name) or name.lower().endswith((*ARCHIVES, PARQUET))


def _list(path: Path, left_out: LeftOut) -> Input:
    """A text file with the path of an image in each line, relative to the list's own folder."""
    fingerprint, rows, first = _Fingerprint("list"), 0, ""
    for name in lines(path, left_out):
        fingerprint.add(name, located(path.parent, name))
        rows += 1
        first = first or name
    if not fingerprint.found:
        example = f" (there is no {first[:_SHOWN_NAME]!r})" if first else ""
        raise InputError(
            f"{path} names no file that is there{example}: it must have the path of an image in each line, relative to "
            "its own folder, and nothing else"
        )
    return Input(
        "list",
        rows,
        fingerprint.hexdigest(),
        lambda: _files(path.parent, lines(path, LeftOut()), fingerprint.missing),
        left_out,
    )


def _files(folder: Path, names: Iterator[str], missing: Set[str]) -> Iterator[Files]:
    while chunk := tuple(islice(names, _NAMES)):
        yield Files(folder, chunk, missing)


def _containers(root: Path, names: list[str], columns: Columns, left_out: LeftOut) -> Input:
    """The images in archives, or in Parquet files."""
    kinds: set[Kind] = {"parquet" if name.lower().endswith(PARQUET) else "archives" for name in names}
    unknown = [name for name in names if not name.lower().endswith((*ARCHIVES, PARQUET))]
    if unknown or len(kinds) > 1:
        raise InputError(
            f"{unknown[0] if unknown else root} cannot be read here: give a folder, a list ({', '.join(LISTS)}) of "
            f"images, archives ({', '.join(ARCHIVES)}), or Parquet files (.parquet), and only one of these kinds"
        )
    kind: Kind = kinds.pop() if kinds else "parquet"
    fingerprint = _Fingerprint(kind, *(columns if kind == "parquet" else ()))
    spans = []
    for name in names:
        path = root / name
        fingerprint.add(name, path)
        spans.append(Span(path, name, columns, 0, count(path, columns, left_out)))
    rows = sum(span.rows for span in spans)
    if not rows:
        where = ", ".join(names[:3]) or str(root)
        also = f"; {left_out}" if left_out else ""
        raise InputError(f"there are no images in {where}{' …' if len(names) > 3 else ''}{also}")
    return Input(kind, rows, fingerprint.hexdigest(), lambda: iter(spans), left_out)


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
                    image = read_file(located(piece.folder, name))
                    if isinstance(image, UnreadableFileError) and name not in piece.missing:
                        image = UnavailableFileError(f"{image.message}, where there was one")
                    yield Row(None, name, image)
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
