"""The images inside one file: a zip or tar archive, such as a WebDataset shard, or a Parquet file.

A damaged image is a row with an error. A file whose damage hides what follows has one more such row and ends there, so
that what was lost can be told from the output. The rows of a file are the same however often it is read.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from eyestate.errors import EmptyImageError, ImageError, ImageTooLargeError, InputError, UnreadableFileError
from eyestate.extras import extra
from eyestate.images import MAX_BYTES, SUFFIXES

with extra("client"):
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz")
PARQUET: Final = ".parquet"
_READ_ROWS: Final = 64  # of Parquet, at a time
_READ_BYTES: Final = 2**20


class Columns(NamedTuple):
    """The Parquet columns with the images and, if there is one, the keys."""

    image: str = "image"
    key: str | None = None


class Image(NamedTuple):
    """An encoded image, or the error that prevented reading it, with its key in the file."""

    key: str
    data: bytes | ImageError


def within_limits(data: bytes) -> bytes | ImageError:
    """The data, or an error if it has more bytes than the service accepts."""
    return data if len(data) <= MAX_BYTES else ImageTooLargeError(f"the image has more than {MAX_BYTES:,} bytes")


def is_image(name: str) -> bool:
    """Whether the name has the suffix of an image."""
    return name.lower().endswith(tuple(SUFFIXES))


def count(path: Path, columns: Columns) -> int:
    """The number of images in a file, without reading them where its format allows.

    Raises:
        InputError: the file cannot be read, or a column is missing.
    """
    try:
        with path.open("rb") as file:
            if path.name.lower().endswith(PARQUET):
                return _count_parquet(file, path, columns)
            if path.name.lower().endswith(".zip"):
                return sum(1 for _ in _zip(file, path.name, 0, read=False))
            return sum(1 for _ in _tar(file, path.name, 0, read=False))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def images(path: Path, start: int, columns: Columns) -> Generator[Image, None, None]:
    """The images of a file in its own order, from position ``start``.

    Raises:
        InputError: the file cannot be read, or a column is missing.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    with file:
        if path.name.lower().endswith(PARQUET):
            yield from _parquet(file, path, start, columns)
        elif path.name.lower().endswith(".zip"):
            yield from _zip(file, path.name, start, read=True)
        else:
            yield from _tar(file, path.name, start, read=True)


def _damaged(what: str, error: Exception) -> UnreadableFileError:
    return UnreadableFileError(f"{what} is damaged: {str(error) or type(error).__name__}")


def _zip(file: IO[bytes], name: str, start: int, *, read: bool) -> Iterator[Image]:
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:  # zipfile, tarfile and pyarrow raise all kinds of errors for damaged files
        if start == 0:
            yield Image(name, _damaged("the archive", error))
        return
    members = [member for member in archive.infolist() if is_image(member.filename)]
    for member in members[start:]:
        yield Image(member.filename, _zipped(archive, member) if read else b"")


def _zipped(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | ImageError:
    try:
        with archive.open(member) as file:
            return within_limits(file.read(MAX_BYTES + 1))
    except Exception as error:
        return _damaged("the archive's member", error)


def _tar(file: IO[bytes], name: str, start: int, *, read: bool) -> Iterator[Image]:
    place = 0
    try:
        with tarfile.open(fileobj=file, mode="r:*") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would grow with every member passed
                if is_image(member.name) and not member.isdir():
                    if place >= start:
                        yield Image(member.name, _tarred(archive, member) if read else b"")
                    place += 1
    except Exception as error:
        if place >= start:
            yield Image(name, _damaged("the archive, from here on,", error))


def _tarred(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | ImageError:
    if not member.isreg():
        return UnreadableFileError("the archive's member is a link or a device, not a file")
    try:
        file = archive.extractfile(member)
        assert file is not None
        return within_limits(file.read(MAX_BYTES + 1))
    except Exception as error:
        return _damaged("the archive's member", error)


def _count_parquet(file: IO[bytes], path: Path, columns: Columns) -> int:
    table = _opened_parquet(file, path, columns)
    return 1 if isinstance(table, ImageError) else int(table.metadata.num_rows)


def _opened_parquet(file: IO[bytes], path: Path, columns: Columns) -> Any:
    """The file as ``ParquetFile``, or the error for all its rows."""
    try:
        table = pq.ParquetFile(file, pre_buffer=False, buffer_size=_READ_BYTES)
        groups = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
        if min(groups, default=0) < 0 or sum(groups) != table.metadata.num_rows:
            raise pa.ArrowInvalid("its footer contradicts itself")
    except Exception as error:
        return _damaged("the Parquet file", error)
    _check_columns(table.schema_arrow, path, columns)
    return table


def _check_columns(schema: Any, path: Path, columns: Columns) -> None:
    for column, option in ((columns.image, "--image-column"), (columns.key, "--key-column")):
        if column is not None and column not in schema.names:
            names = ", ".join(schema.names)
            raise InputError(f"{path} has no column '{column}'; it has {names}: name the right one with {option}")
    image = schema.field(columns.image).type
    if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0:  # the form of Hugging Face's datasets
        image = image.field("bytes").type
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        raise InputError(f"the column '{columns.image}' of {path} holds {image}, not the bytes of encoded images")
    key = schema.field(columns.key).type if columns.key else pa.string()
    if not (pa.types.is_string(key) or pa.types.is_large_string(key) or pa.types.is_integer(key)):
        raise InputError(f"the column '{columns.key}' of {path} holds {key}; a key is a string or an integer")


def _parquet(file: IO[bytes], path: Path, start: int, columns: Columns) -> Iterator[Image]:
    table = _opened_parquet(file, path, columns)
    if isinstance(table, ImageError):
        if start == 0:
            yield Image(path.name, table)
        return
    first = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if start < first + rows:
            yield from islice(
                _row_group(table, group, range(first, first + rows), columns), max(0, start - first), None
            )
        first += rows


def _row_group(table: Any, group: int, places: range, columns: Columns) -> Iterator[Image]:
    """The rows of one row group; what cannot be read of it is rows with an error, under their places in the file."""
    rows = iter(places)
    names = [name for name in columns if name is not None]
    damage: Exception = pa.ArrowInvalid("it ends early")
    try:
        for batch in table.iter_batches(_READ_ROWS, row_groups=[group], columns=names, use_threads=False):
            images = batch.column(columns.image)
            if pa.types.is_struct(images.type):
                images = pc.struct_field(images, "bytes")
            keys = batch.column(columns.key).cast(pa.string()) if columns.key else pa.nulls(len(batch), pa.string())
            for image, key, place in zip(images, keys.cast(pa.binary()), rows, strict=False):
                yield Image(_key(key.as_py(), place), _cell(image.as_py()))
    except Exception as error:
        damage = error
    for place in rows:
        yield Image(str(place), _damaged("the Parquet file", damage))


def _key(key: bytes | None, place: int) -> str:
    return str(place) if key is None else key.decode(errors="backslashreplace")


def _cell(data: bytes | None) -> bytes | ImageError:
    return EmptyImageError("the row holds no image (null)") if data is None else within_limits(data)
