"""The images in a column of a Parquet file, as bytes, or as the paths of files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from eyestate.batch.reading import Image, exists, located, read_file, unreadable, within_limits
from eyestate.errors import EmptyImageError, ImageError, InputError, UnreadableFileError
from eyestate.extras import extra

with extra("client"):
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

_READ_ROWS: Final = 64  # at a time
_READ_BYTES: Final = 2**20


class Columns(NamedTuple):
    """The columns with the images and, if there is one, the keys."""

    image: str = "image"
    key: str | None = None


def count_rows(file: IO[bytes], path: Path, columns: Columns) -> int:
    """The number of rows.

    Raises:
        InputError: a column is missing or holds something else, or paths of files that are not there.
    """
    table = _opened(file, path, columns)
    if isinstance(table, ImageError):
        return 1
    if not _is_bytes(_plain(table.schema_arrow.field(columns.image).type)):
        _check_paths(table, path, columns)
    return int(table.metadata.num_rows)


def row_images(file: IO[bytes], path: Path, start: int, columns: Columns) -> Iterator[Image]:
    """The images of the rows from ``start`` on."""
    table = _opened(file, path, columns)
    if isinstance(table, ImageError):
        if start == 0:
            yield Image(path.name, table)
        return
    first = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if start < first + rows:
            read = _row_group(table, group, range(first, first + rows), columns, path.parent)
            yield from islice(read, max(0, start - first), None)
        first += rows


def _opened(file: IO[bytes], path: Path, columns: Columns) -> Any:
    """The file as ``ParquetFile``, or the error for all its rows."""
    try:
        table = pq.ParquetFile(file, pre_buffer=False, buffer_size=_READ_BYTES)
        groups = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
        if min(groups, default=0) < 0 or sum(groups) != table.metadata.num_rows:
            raise pa.ArrowInvalid("its footer contradicts itself")
        schema = table.schema_arrow
    except Exception as error:  # pyarrow raises all kinds of errors for damaged files
        return unreadable("the Parquet file", error)
    _check_columns(schema, path, columns)
    return table


def _check_columns(schema: Any, path: Path, columns: Columns) -> None:
    for column, option in ((columns.image, "--image-column"), (columns.key, "--key-column")):
        if column is not None and schema.names.count(column) != 1:
            found = "several columns" if column in schema.names else "no column"
            names = ", ".join(schema.names)
            raise InputError(f"{path} has {found} '{column}'; it has {names}: name the right one with {option}")
    image = schema.field(columns.image).type
    if not _holds_images(image):
        raise InputError(f"the column '{columns.image}' of {path} holds {image}, not encoded images or their paths")
    if columns.key:
        key = _plain(schema.field(columns.key).type)
        if not (_is_text(key) or pa.types.is_integer(key)):
            raise InputError(f"the column '{columns.key}' of {path} holds {key}; a key is a string or an integer")


def _check_paths(table: Any, path: Path, columns: Columns) -> None:
    """Raise InputError if the first rows hold no images, and paths of which none is a file's."""
    try:
        batch = next(table.iter_batches(_READ_ROWS, columns=[columns.image], use_threads=False), None)
        images, paths = _bytes_and_paths(batch.column(0)) if batch is not None else ((), ())
    except Exception:  # of all kinds: the rows have it for their error
        return
    names = [_name(name.as_py()) for name in paths if name.as_py()]
    if names and not any(image.as_py() for image in images) and not any(_is_there(path.parent, name) for name in names):
        raise InputError(
            f"the column '{columns.image}' of {path} holds no images, only where they are, and there is no file "
            f"{names[0]!r}: write the images themselves, or put the files where the paths say, relative to the folder "
            "of the Parquet file"
        )


def _is_there(folder: Path, name: str) -> bool:
    return exists(located(folder, name))


def _name(path: bytes) -> str:
    return path.decode(errors="surrogateescape")


def _holds_images(kind: Any) -> bool:
    """Whether a type is one of encoded images or paths, or a struct of both as Hugging Face's datasets writes it."""
    if not pa.types.is_struct(kind):
        return _is_bytes(_plain(kind)) or _is_text(_plain(kind))
    fields = {kind.field(place).name: _plain(kind.field(place).type) for place in range(kind.num_fields)}
    told = {name: fields[name] for name in ("bytes", "path") if name in fields}
    return bool(told) and _is_bytes(told.get("bytes", pa.binary())) and _is_text(told.get("path", pa.string()))


def _plain(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_bytes(kind: Any) -> bool:
    is_type = pa.types
    return bool(
        is_type.is_binary(kind)
        or is_type.is_large_binary(kind)
        or is_type.is_binary_view(kind)
        or is_type.is_fixed_size_binary(kind)
        or is_type.is_null(kind)
    )


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _row_group(table: Any, group: int, places: range, columns: Columns, folder: Path) -> Iterator[Image]:
    """The rows of one row group; what cannot be read of it is rows with an error, under their places in the file."""
    rows = iter(places)
    names = [name for name in columns if name is not None]
    damage: Exception = pa.ArrowInvalid("it ends early")
    try:
        for batch in table.iter_batches(_READ_ROWS, row_groups=[group], columns=names, use_threads=False):
            images, paths = _bytes_and_paths(batch.column(columns.image))
            keys = _strings(batch.column(columns.key)) if columns.key else pa.nulls(len(batch), pa.binary())
            for image, path, key, place in zip(images, paths, keys, rows, strict=False):
                yield Image(_key(key.as_py(), place), _cell(image.as_py(), path.as_py(), folder))
    except Exception as error:
        damage = error
    for place in rows:
        yield Image(str(place), unreadable("the Parquet file", damage))


def _bytes_and_paths(column: Any) -> tuple[Any, Any]:
    """The encoded images of a column, and the paths of those that have no bytes there, both binary."""
    nothing = pa.nulls(len(column), pa.binary())
    if pa.types.is_struct(column.type):
        names = {column.type.field(place).name for place in range(column.type.num_fields)}
        images, paths = (
            _dense(pc.struct_field(column, name)) if name in names else nothing for name in ("bytes", "path")
        )
        return images, paths.cast(pa.binary())
    column = _dense(column)
    return (nothing, column.cast(pa.binary())) if _is_text(column.type) else (column, nothing)


def _dense(column: Any) -> Any:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _strings(column: Any) -> Any:
    """Keys as binary, since not all that Parquet calls a string is UTF-8."""
    return _dense(column).cast(pa.string()).cast(pa.binary())


def _key(key: bytes | None, place: int) -> str:
    return str(place) if key is None else key.decode(errors="backslashreplace")


def _cell(data: bytes | None, path: bytes | None, folder: Path) -> bytes | ImageError:
    if data is not None:
        return within_limits(data)
    if not path:
        return EmptyImageError("the row holds no image (null)")
    name = _name(path)
    file = located(folder, name)
    if "://" in name and not exists(file):
        return UnreadableFileError(f"the row holds no image, only where it is: {name}; write the images themselves")
    return read_file(file)
