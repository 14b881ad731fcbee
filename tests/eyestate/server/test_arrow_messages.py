from __future__ import annotations

import struct
import time
from collections.abc import Sequence

import flatbuffers
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyestate.errors import BodyTooLargeError, EyestateError, RequestError
from eyestate.server.arrow_messages import MAX_COLUMNS, check
from eyestate.server.packed import from_arrow
from tests.eyestate.server.test_packed import batches, stream

BINARY, STRUCT = 4, 13  # types of a field


class Message:
    """A message of a schema, in which offsets may lead to the same table."""

    def __init__(self) -> None:
        self.builder = flatbuffers.Builder(1024)

    def table(self, size: int, **slots: int) -> int:
        """A table whose slots are offsets."""
        self.builder.StartObject(size)
        for slot, offset in slots.items():
            self.builder.PrependUOffsetTRelativeSlot(int(slot[1:]), offset, 0)
        return int(self.builder.EndObject())

    def vector(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in offsets:
            self.builder.PrependUOffsetTRelative(offset)
        return int(self.builder.EndVector())

    def metadata(self, size: int, times: int) -> int:
        key, value = self.builder.CreateString("k"), self.builder.CreateString("v" * size)
        return self.vector([self.table(2, _0=key, _1=value)] * times)

    def field(self, name: str, children: Sequence[int] = (), **metadata: int) -> int:
        text, inside, kind = self.builder.CreateString(name), self.vector(children), self.table(0)
        self.builder.StartObject(7)
        self.builder.PrependUint8Slot(2, STRUCT if children else BINARY, 0)
        for slot, offset in ((0, text), (3, kind), (5, inside), *((6, each) for each in metadata.values())):
            self.builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        return int(self.builder.EndObject())

    def finished(self, fields: Sequence[int], of_schema: int | None = None, of_message: int | None = None) -> bytes:
        listed = self.vector(fields)
        schema = self.table(4, _1=listed, **({} if of_schema is None else {"_2": of_schema}))
        self.builder.StartObject(5)
        self.builder.PrependInt16Slot(0, 4, 0)
        self.builder.PrependUint8Slot(1, 1, 0)
        self.builder.PrependUOffsetTRelativeSlot(2, schema, 0)
        if of_message is not None:
            self.builder.PrependUOffsetTRelativeSlot(4, of_message, 0)
        self.builder.Finish(self.builder.EndObject())
        content = bytes(self.builder.Output())
        return b"\xff\xff\xff\xff" + struct.pack("<I", len(content)) + content


def sound() -> bytes:
    message = Message()
    return message.finished([message.field("image", metadata=message.metadata(5, 1))], message.metadata(7, 1))


def bombs() -> dict[str, bytes]:
    found = {}
    for name in ("of_schema", "of_message"):
        message = Message()
        found[name] = message.finished([message.field("image")], **{name: message.metadata(50_000, 900)})
    message = Message()
    found["of a field"] = message.finished([message.field("image", metadata=message.metadata(50_000, 900))])
    message = Message()
    found["name"] = message.finished([message.field("i" * 50_000)] * 900)
    return found


def wide() -> dict[str, bytes]:
    found = {}
    message = Message()
    found["the same column"] = message.finished([message.field("image")] * 200_000)
    message = Message()
    field = message.field("image")
    for _ in range(12):
        field = message.field("s", [field, field])
    found["columns in columns"] = message.finished([field])
    message = Message()
    field = message.field("s", [message.field("s", [message.field("image")] * 900)] * 900)
    found["many columns in many"] = message.finished([field])
    message = Message()
    found["metadata of columns"] = message.finished([message.field("i", metadata=message.metadata(0, 900))] * 900)
    schema = pa.schema([pa.field(f"c{number}", pa.binary()) for number in range(20_000)])
    found["columns"] = bytes(schema.serialize())
    return found


def test_the_messages_made_here_are_read_by_arrow() -> None:
    schema = pa.ipc.open_stream(sound()).schema
    assert (schema.names, schema.metadata) == (["image"], {b"k": b"v" * 7})
    check(sound(), 1)


@pytest.mark.parametrize("columns", [1, MAX_COLUMNS - 5])
def test_what_arrow_writes_passes(columns: int) -> None:
    fields = [pa.field(f"c{number}", pa.struct([]) if number % 2 else pa.int8()) for number in range(columns)]
    schema = pa.schema(fields, metadata={"a": "b" * 10_000})
    check(bytes(schema.serialize()), 1)
    check(stream(pa.array([b"x", None])), 1)
    check(batches(pa.array([b"x"]), ["image"], 20), 20)


def test_more_batches_than_wanted() -> None:
    with pytest.raises(BodyTooLargeError, match="more than 19 record batches"):
        check(batches(pa.array([b"x"]), ["image"], 20), 19)


@pytest.mark.parametrize(("name", "body"), bombs().items())
def test_texts_that_repeat(name: str, body: bytes) -> None:
    with pytest.raises(RequestError, match="repeats texts"):
        from_arrow(body)


@pytest.mark.parametrize(("name", "body"), wide().items())
def test_more_columns_than_are_read_while_others_wait(name: str, body: bytes) -> None:
    started = time.thread_time()
    with pytest.raises(BodyTooLargeError, match="1,000 columns"):
        from_arrow(body)
    assert time.thread_time() - started < 0.1


@pytest.mark.fuzz
@settings(max_examples=10 * settings().max_examples)
@given(
    st.sampled_from([sound(), stream(pa.array([b"x", None])), stream(pa.array([b"x"]), compression="zstd")]),
    st.lists(st.tuples(st.integers(0, 600), st.binary(min_size=1, max_size=8)), max_size=6),
)
def test_any_bytes(body: bytes, changes: list[tuple[int, bytes]]) -> None:
    damaged = bytearray(body)
    for place, piece in changes:
        at = place % len(damaged)
        damaged[at : at + len(piece)] = piece
    try:
        check(bytes(damaged), 10)
    except (EyestateError, struct.error) as error:
        assert len(str(error)) < 200  # noqa: PT017  # which error is of no matter
