"""Messages of gRPC as they come: bytes that anybody may have written.

Protobuf's parser runs to its end before anything else in the process does, and 64 MiB of empty fields take it seconds
and gigabytes. So the fields of a large message are counted first.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from eyestate.errors import BodyTooLargeError, InferenceRequestError
from eyestate.server.openinference.tensors import MAX_JSON_BYTES
from eyestate.server.packed import MAX_CROPS

MAX_FIELDS: Final = MAX_CROPS + 1_024  # of a message and of those in it; each image is a field
MAX_NUMBER_BYTES: Final = MAX_JSON_BYTES  # of numbers that are not raw
SMALL_BYTES: Final = 2 * MAX_FIELDS  # as much as that many empty fields take
_VARINT: Final = 0  # wire types
_LENGTH: Final = 2
_FIXED: Final = {1: 8, 5: 4}  # bytes of the values of others; the ends of groups have none
_VARINT_BYTES: Final = 10
_OPAQUE: Final = frozenset({FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES})


def read(form: Any, data: bytes) -> Any:
    """A message of a form, such as ``messages.message("ModelInferRequest")``.

    Raises:
        InferenceRequestError: the bytes are no such message.
        BodyTooLargeError: it has more fields or numbers than any request needs.
    """
    try:
        if len(data) > SMALL_BYTES:
            _count(form.DESCRIPTOR, data)
        return form.FromString(data)
    except (DecodeError, IndexError) as error:
        raise InferenceRequestError(f"this is no {form.DESCRIPTOR.name}: {error}") from None


def _count(form: Any, data: bytes) -> None:
    fields = numbers = 0
    messages = [(form, 0, len(data))]
    while messages:
        descriptor, at, end = messages.pop()
        while at < end:
            fields += 1
            tag, at = _varint(data, at)
            if tag & 7 == _VARINT:
                _, at = _varint(data, at)
            elif tag & 7 == _LENGTH:
                size, at = _varint(data, at)
                field = descriptor.fields_by_number.get(tag >> 3)
                if field and field.message_type:
                    messages.append((field.message_type, at, min(at + size, end)))
                elif field and field.type not in _OPAQUE:
                    numbers += size
                at += size
            else:
                at += _FIXED.get(tag & 7, 0)
            if fields > MAX_FIELDS:
                raise BodyTooLargeError(f"the message has more than {MAX_FIELDS:,} fields")
            if numbers > MAX_NUMBER_BYTES:
                raise BodyTooLargeError(
                    f"the message has more than {MAX_NUMBER_BYTES:,} bytes of numbers; send them in raw_input_contents"
                )


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    number = 0
    for place in range(_VARINT_BYTES):
        byte = data[at + place]
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at + place + 1
    raise DecodeError("a number is longer than 64 bits")


def octets(contents: Any) -> bytes:
    """The numbers from 0 to 255 in a tensor's ``uint_contents``.

    They are taken from how they are written, since protobuf needs 300 ns to give out each of them: a number up to 255
    is one byte, with a 1 behind it from 128.

    Raises:
        InferenceRequestError: some are larger, or there are other contents than these.
    """
    if [field.name for field, _ in contents.ListFields()] != ["uint_contents"]:
        raise InferenceRequestError("the data of 'crops' must be in uint_contents, or raw")
    written = contents.SerializeToString()
    size, start = _varint(written, 1)
    found = np.frombuffer(written, np.uint8, size, start)
    goes_on = found > 0x7F
    behind = np.concatenate([[False], goes_on[:-1]])
    if (found[behind] != 1).any():
        raise InferenceRequestError("the data of 'crops' must be whole numbers from 0 to 255")
    values: bytes = found[~behind].tobytes()
    return values
