"""Packed bodies: many crops in one tensor or Arrow stream, which makes bulk requests cheap."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from eyestate.arrays import Pixels, Scores
from eyestate.errors import BodyTooLargeError, RequestError
from eyestate.images import check_size
from eyestate.server import arrow_messages

MAX_CROPS: Final = 16_384
COLUMN: Final = "image"
Encoded = bytes | memoryview  # an encoded image; a view of the body where that is possible
_MAX_NPY_HEAD: Final = 1_024  # characters; NumPy writes 118, and reads an expression of 10,000 in 10 ms


def from_npy(body: bytes) -> Pixels:
    """The crops of a ``.npy`` file: uint8 (N, height, width) or (N, height, width, 3), a view of the body.

    Raises:
        RequestError, BodyTooLargeError, ImageError: it is no such file, its data are not as long as its head says, it
            holds too many crops, or crops of a size that is not accepted.
    """
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read_head = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read_head(file, max_header_size=_MAX_NPY_HEAD)
        shape = tuple(map(int, shape))  # True is one, too, but not to NumPy
    except Exception:  # the head is a Python expression, and NumPy raises all kinds of errors for broken ones
        raise RequestError("the body is no .npy file of version 1 or 2 that numpy.save writes") from None
    if dtype != np.uint8 or fortran:
        raise RequestError(f"the array is {_short(dtype)}{', column-major' if fortran else ''}; send uint8 in C order")
    if not all(0 <= length < 2**63 for length in shape):  # Python refuses to print numbers of very many digits
        raise RequestError("the array has an axis whose length is negative, or beyond any memory")
    _check_shape(shape)
    expected = file.tell() + math.prod(shape)
    if expected != len(body):
        raise RequestError(f"an array of the shape {shape} makes a body of {expected} bytes, not {len(body)}")
    return np.frombuffer(body, np.uint8, offset=file.tell()).reshape(shape)


def from_arrow(body: bytes) -> Pixels | list[Encoded | None]:
    """The crops of an Arrow IPC stream with the column ``image``.

    Returns:
        Encoded images (None for null) where the column holds binary values, or uint8 (N, height, width) or
        (N, height, width, 3) where it is a fixed-shape tensor.

    Raises:
        RequestError, BodyTooLargeError, ImageError: as ``from_npy``; also where the stream would grow when read:
            compressed, or with views of the same bytes again and again.
    """
    try:
        arrow_messages.check(body, MAX_CROPS)
        with pa.ipc.open_stream(body) as stream:
            names = stream.schema.names
            if names.count(COLUMN) != 1:
                found = f"{names.count(COLUMN)} columns" if COLUMN in names else "no column"
                raise RequestError(f"the Arrow stream has {found} '{COLUMN}' among {_short(', '.join(names))}")
            kind = stream.schema.field(COLUMN).type
            columns = [_validated(batch.column(COLUMN)) for batch in stream]
        _check_count(sum(map(len, columns)))
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
            return _images(columns, len(body))
        if isinstance(kind, pa.FixedShapeTensorType) and kind.value_type == pa.uint8():
            return _tensors(columns)
    except (pa.ArrowException, OSError, ValueError, LookupError, struct.error) as error:
        raise RequestError(f"the body is no Arrow IPC stream that can be read: {_short(error)}") from None
    raise RequestError(
        f"the column '{COLUMN}' is {_short(kind)}; send binary (images) or a fixed-shape tensor of uint8"
    )


def to_npy(scores: Scores) -> bytes:
    """Scores, float32 (N,), as a ``.npy`` file."""
    file = io.BytesIO()
    np.save(file, scores)
    return file.getvalue()


def to_arrow(
    scores: Scores, states: Sequence[str | None], errors: Sequence[tuple[str, str] | None], metadata: dict[str, str]
) -> bytes:
    """Results as an Arrow IPC stream: ``score``, ``state``, ``error`` and ``message``, each nullable.

    Args:
        scores: float32 (N,), NaN where a crop failed.
        states: one for each crop.
        errors: code and message for each crop that failed.
        metadata: of the schema.
    """
    table = pa.table(
        {
            "score": pa.array(scores, pa.float32(), from_pandas=True),
            "state": pa.array(states, pa.string()),
            "error": pa.array([error and error[0] for error in errors], pa.string()),
            "message": pa.array([error and error[1] for error in errors], pa.string()),
        },
    ).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) not in (3, 4) or shape[3:] not in ((), (3,)):
        raise RequestError(f"the shape is {_short(shape)}; send (N, height, width) or (N, height, width, 3)")
    _check_count(shape[0])
    check_size(shape[2], shape[1])


def _check_count(crops: int) -> None:
    if crops == 0:
        raise RequestError("there are no crops")
    if crops > MAX_CROPS:
        raise BodyTooLargeError(f"there are {crops:,} crops; at most {MAX_CROPS:,} in one request")


def _validated(column: pa.Array) -> pa.Array:
    column.validate(full=True)
    return column


def _images(columns: Sequence[pa.Array], size: int) -> list[Encoded | None]:
    """The values of binary columns, of at most ``size`` bytes in all."""
    images: list[Encoded | None] = []
    for column in columns:
        for value in column:
            images.append(memoryview(value.as_buffer()) if value.is_valid else None)
            size -= len(images[-1] or b"")
            if size < 0:
                raise RequestError(f"views in the column '{COLUMN}' overlap; send plain binary values")
    return images


def _tensors(columns: Sequence[pa.FixedShapeTensorArray]) -> Pixels:
    if any(column.null_count for column in columns):
        raise RequestError("a tensor column cannot hold nulls; leave the rows out, or send encoded images")
    parts = [column.to_numpy_ndarray() for column in columns if len(column)]
    crops: Pixels = parts[0] if len(parts) == 1 else np.concatenate(parts)
    _check_shape(crops.shape)
    return crops


def _short(fault: object) -> str:
    """The beginning of a message whose length the caller controls."""
    return str(fault).partition("\n")[0][:200]
