"""Packed bodies: many crops in one tensor or one Arrow stream, so that a bulk request costs little per crop."""

from __future__ import annotations

import io
import struct
import tokenize
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from eyestate.errors import BodyTooLargeError, RequestError
from eyestate.images import Pixels, check_size
from eyestate.scorer import Scores

NPY: Final = "application/x-npy"
ARROW: Final = "application/vnd.apache.arrow.stream"
MAX_CROPS: Final = 16_384
COLUMN: Final = "image"


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
        shape, fortran, dtype = read_head(file)
    except (ValueError, KeyError, SyntaxError, tokenize.TokenError) as error:
        raise RequestError(f"the body is no .npy file of version 1 or 2: {_first_line(error)}") from None
    if dtype != np.uint8 or fortran:
        raise RequestError(f"the array is {dtype}{', column-major' if fortran else ''}; send uint8 in C order")
    expected = file.tell() + np.prod(shape, dtype=object)
    if expected != len(body):
        raise RequestError(
            f"an array of the shape {shape} makes a body of {expected} bytes, not {len(body)}"
        )
    return checked(np.frombuffer(body, np.uint8, offset=file.tell()).reshape(shape))


def from_arrow(body: bytes) -> Pixels | list[bytes | None]:
    """The crops of an Arrow IPC stream with the column ``image``.

    Returns:
        Encoded images (None for null) where the column holds binary values, or uint8 (N, height, width) or
        (N, height, width, 3) where it is a fixed-shape tensor.

    Raises:
        RequestError, BodyTooLargeError, ImageError: as ``from_npy``; also where the stream is compressed, which would
            let a small body grow without limit.
    """
    try:
        if any(map(_may_grow, _messages(body))):
            raise RequestError("the Arrow stream is compressed or has dictionaries; send plain columns")
        with pa.ipc.open_stream(body) as stream:
            if COLUMN not in stream.schema.names:
                raise RequestError(f"the Arrow stream has no column '{COLUMN}' but {', '.join(stream.schema.names)}")
            columns = [_validated(batch).column(COLUMN) for batch in stream]
            kind = stream.schema.field(COLUMN).type
    except (pa.ArrowException, OSError, ValueError, struct.error, IndexError) as error:
        raise RequestError(f"the body is no Arrow IPC stream that can be read: {_first_line(error)}") from None
    _check_count(sum(map(len, columns)))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return [image for column in columns for image in column.to_pylist()]
    if isinstance(kind, pa.FixedShapeTensorType) and kind.value_type == pa.uint8():
        if any(column.null_count for column in columns):
            raise RequestError("a tensor column cannot hold nulls; leave the rows out, or send encoded images")
        return checked(np.concatenate([_tensor(column, kind) for column in columns]))
    raise RequestError(
        f"the column '{COLUMN}' is {kind}; send binary (images) or a fixed-shape tensor of uint8"
    )


def checked(crops: Pixels) -> Pixels:
    """The same array, if it is one of crops.

    Raises:
        RequestError, BodyTooLargeError, ImageError: another shape, too many crops, or of a size that is not accepted.
    """
    if crops.ndim not in (3, 4) or (crops.ndim == 4 and crops.shape[3] != 3):
        raise RequestError(f"the shape is {crops.shape}; send (N, height, width) or (N, height, width, 3)")
    _check_count(len(crops))
    check_size(crops.shape[2], crops.shape[1])
    return crops


def to_npy(scores: Scores) -> bytes:
    """Scores, float32 (N,), as a ``.npy`` file."""
    file = io.BytesIO()
    np.save(file, scores)
    return file.getvalue()


def to_arrow(
    scores: Scores, states: Sequence[str | None], errors: Sequence[tuple[str, str] | None], metadata: dict[str, str]
) -> bytes:
    """Answers as an Arrow IPC stream: ``score``, ``state``, ``error`` and ``message``, each null where it has no place.

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


def _check_count(crops: int) -> None:
    if crops == 0:
        raise RequestError("there are no crops")
    if crops > MAX_CROPS:
        raise BodyTooLargeError(f"there are {crops:,} crops; at most {MAX_CROPS:,} in one request")


def _validated(batch: pa.RecordBatch) -> pa.RecordBatch:
    batch.validate(full=True)
    return batch


def _tensor(column: pa.FixedShapeTensorArray, kind: pa.FixedShapeTensorType) -> Pixels:
    if len(column) == 0:
        return np.empty((0, *kind.shape), np.uint8)
    pixels: Pixels = column.to_numpy_ndarray()
    return pixels


def _messages(body: bytes) -> Iterator[pa.Message]:
    reader = pa.ipc.MessageReader.open_stream(body)
    while True:
        try:
            yield reader.read_next_message()
        except StopIteration:
            return


def _may_grow(message: pa.Message) -> bool:
    """Whether a message could grow when read: a compressed record batch, which pyarrow tells only by reading it.

    Reads the flatbuffer of Arrow's ``Message.fbs``: the field ``header`` (2) of a message is its record batch, whose
    field ``compression`` (3) is there when it is.
    """
    if message.type not in ("record batch", "dictionary"):
        return False
    flat = message.metadata.to_pybytes()

    def field(table: int, index: int) -> int:
        vtable = table - struct.unpack_from("<i", flat, table)[0]
        size = struct.unpack_from("<H", flat, vtable)[0]
        offset = struct.unpack_from("<H", flat, vtable + 4 + 2 * index)[0] if 4 + 2 * index < size else 0
        return table + offset if offset else 0

    header = field(struct.unpack_from("<I", flat)[0], 2)
    return message.type == "dictionary" or field(header + struct.unpack_from("<I", flat, header)[0], 3) != 0


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
