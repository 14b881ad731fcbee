"""The messages of an Arrow IPC stream, checked before Arrow reads any of them.

A message's metadata is a flatbuffer, in which any number of offsets may lead to the same table: 130 KB make a schema
that takes Arrow 4 s and 1 GB. So what would be read is counted here first, and no more of it than may be there. The
numbers of fields below are those of ``Message.fbs`` and ``Schema.fbs`` of Arrow's format 1.5; whether a flatbuffer is
otherwise sound is for Arrow to check.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from eyestate.errors import BodyTooLargeError, RequestError

MAX_COLUMNS: Final = 1_000  # in a schema, with those inside of others and the entries of metadata
_CONTINUED: Final = 0xFFFFFFFF  # before the length of a message, since Arrow 0.15
_SCHEMA, _RECORD_BATCH = 1, 3  # types of a message
_HEADER_TYPE, _HEADER, _BODY_LENGTH, _MESSAGE_METADATA = 1, 2, 3, 4  # fields of a message
_FIELDS, _SCHEMA_METADATA = 1, 2  # of a schema
_NAME, _CHILDREN, _FIELD_METADATA = 0, 5, 6  # of a field
_COMPRESSION: Final = 3  # of a record batch
_KEY, _VALUE = 0, 1  # of an entry of metadata


def check(stream: bytes, max_batches: int) -> None:
    """Reject a stream that would take far more memory or time than its length.

    Args:
        stream: any bytes.
        max_batches: record batches that it may have.

    Raises:
        RequestError, BodyTooLargeError: it is compressed, has dictionaries, or too many batches or columns.
        struct.error: it is no Arrow stream.
    """
    batches = 0
    for kind, message in _messages(stream):
        _read_metadata(message, message.root, _MESSAGE_METADATA)
        header = message.table(message.root, _HEADER)
        if kind == _SCHEMA:
            _read_schema(message, header)
        elif kind != _RECORD_BATCH or message.place(header, _COMPRESSION):
            raise RequestError("the Arrow stream is compressed or has dictionaries; send plain columns")
        else:
            batches += 1
            if batches > max_batches:
                raise BodyTooLargeError(f"the Arrow stream has more than {max_batches:,} record batches")


def _messages(stream: bytes) -> Iterator[tuple[int, _Flatbuffer]]:
    """The type and the metadata of each message."""
    start = 0
    while start < len(stream):
        (length,) = struct.unpack_from("<I", stream, start)
        start += 4
        if length == _CONTINUED:
            (length,) = struct.unpack_from("<I", stream, start)
            start += 4
        if length == 0:
            return
        message = _Flatbuffer(stream[start : start + length])
        yield message.number("<B", message.root, _HEADER_TYPE), message
        start += length + max(0, message.number("<q", message.root, _BODY_LENGTH))


def _read_schema(message: _Flatbuffer, schema: int) -> None:
    _read_metadata(message, schema, _SCHEMA_METADATA)
    fields = message.tables(schema, _FIELDS)
    for field in fields:
        message.text(field, _NAME)
        _read_metadata(message, field, _FIELD_METADATA)
        fields += message.tables(field, _CHILDREN)


def _read_metadata(message: _Flatbuffer, table: int, index: int) -> None:
    for entry in message.tables(table, index):
        message.text(entry, _KEY)
        message.text(entry, _VALUE)


class _Flatbuffer:
    """A message's metadata: its tables, by the place where they begin, and how much of it has been read.

    Where a field is absent, there is nothing in it.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.root = self._follow(0)
        self._tables = 0
        self._text = 0

    def place(self, table: int, index: int) -> int:
        """Where a table has a field."""
        vtable = table - struct.unpack_from("<i", self.data, table)[0]
        (size,) = struct.unpack_from("<H", self.data, vtable)
        entry = 4 + 2 * index
        offset = struct.unpack_from("<H", self.data, vtable + entry)[0] if entry < size else 0
        return table + offset if offset else 0

    def number(self, form: str, table: int, index: int) -> int:
        """A field that is a number."""
        place = self.place(table, index)
        return int(struct.unpack_from(form, self.data, place)[0]) if place else 0

    def table(self, table: int, index: int) -> int:
        """A field that is a table.

        Raises:
            struct.error: there is none.
        """
        return self._follow(self.place(table, index))

    def text(self, table: int, index: int) -> None:
        """Read a field that is a string.

        Raises:
            RequestError: all that were read are longer than the message.
        """
        self._text += self._length(table, index)
        if self._text > len(self.data):
            raise RequestError("the Arrow stream repeats texts of its metadata; write it with an Arrow library")

    def tables(self, table: int, index: int) -> list[int]:
        """A field that is a list of tables.

        Raises:
            BodyTooLargeError: all that were read are more than ``MAX_COLUMNS``.
        """
        count = self._length(table, index)
        self._tables += count
        if self._tables > MAX_COLUMNS:
            raise BodyTooLargeError(f"the Arrow stream has more than {MAX_COLUMNS:,} columns or entries of metadata")
        first = self._follow(self.place(table, index)) + 4 if count else 0
        return [self._follow(first + 4 * number) for number in range(count)]

    def _length(self, table: int, index: int) -> int:
        """Of a field that is a string or a list."""
        place = self.place(table, index)
        return int(struct.unpack_from("<I", self.data, self._follow(place))[0]) if place else 0

    def _follow(self, place: int) -> int:
        return place + int(struct.unpack_from("<I", self.data, place)[0])
