from __future__ import annotations

import io
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyestate.arrays import Pixels
from eyestate.errors import BodyTooLargeError, EyestateError, ImageError, ImageTooSmallError, RequestError
from eyestate.server import packed

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 256, (5, 9, 11), dtype=np.uint8)
RGB = RNG.integers(0, 256, (4, 9, 11, 3), dtype=np.uint8)


def npy(array: Any, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), version=version)
    return file.getvalue()


def stream(column: pa.Array, name: str = "image", **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"key": pa.array(range(len(column))), name: column})
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=2)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def tensors(array: Any) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(array)


def shaped(shape: str) -> str:
    return f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"


def batches(column: pa.Array, names: list[str], count: int = 1) -> bytes:
    """A stream of equal record batches, each with the column under all of the names."""
    batch = pa.RecordBatch.from_arrays([column] * len(names), names)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(count):
            writer.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def views(size: int, count: int) -> pa.Array:
    """The same bytes again and again, as views."""
    view = size.to_bytes(4, "little") + bytes(12)
    return pa.Array.from_buffers(pa.binary_view(), count, [None, pa.py_buffer(view * count), pa.py_buffer(bytes(size))])


def tensors_with(metadata: str, length: int) -> bytes:
    """A tensor column that says of itself what no writer would let it say."""
    storage = pa.FixedSizeListArray.from_arrays(pa.array(bytes(length), pa.uint8()), length)
    extension = {"ARROW:extension:name": "arrow.fixed_shape_tensor", "ARROW:extension:metadata": metadata}
    schema = pa.schema([pa.field("image", storage.type, metadata=extension)])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([storage], schema=schema))
    body: bytes = sink.getvalue().to_pybytes()
    return body


class TestNpy:
    @pytest.mark.parametrize("crops", [GREY, RGB, GREY[:1]], ids=["grey", "rgb", "one"])
    @pytest.mark.parametrize("version", [(1, 0), (2, 0)])
    def test_crops(self, crops: Pixels, version: tuple[int, int]) -> None:
        np.testing.assert_array_equal(packed.from_npy(npy(crops, version)), crops)

    @pytest.mark.parametrize(
        ("body", "error", "message"),
        [
            pytest.param(b"abc", RequestError, r"no \.npy file", id="no npy"),
            pytest.param(npy(GREY.astype(np.float32)), RequestError, "float32", id="float"),
            pytest.param(npy(np.asfortranarray(GREY)), RequestError, "column-major", id="fortran"),
            pytest.param(npy(GREY)[:-1], RequestError, "bytes, not", id="cut"),
            pytest.param(npy(GREY) + b"x", RequestError, "bytes, not", id="more"),
            pytest.param(npy(GREY[0]), RequestError, "shape", id="two axes"),
            pytest.param(npy(RGB[..., :2]), RequestError, "shape", id="two channels"),
            pytest.param(npy(GREY[:0]), RequestError, "no crops", id="none"),
            pytest.param(
                npy(np.zeros((packed.MAX_CROPS + 1, 8, 8), np.uint8)), BodyTooLargeError, "at most", id="many"
            ),
            pytest.param(npy(np.zeros((2, 8, 7), np.uint8)), ImageTooSmallError, "7×8", id="small"),
            pytest.param(npy(np.array([{}], object)), RequestError, "object", id="pickle"),
            pytest.param(
                npy(GREY).replace(b"(5, 9, 11)", b"(9**99999)"), RequestError, r"no \.npy file", id="expression"
            ),
        ],
    )
    def test_refused(self, body: bytes, error: type[EyestateError], message: str) -> None:
        with pytest.raises(error, match=message):
            packed.from_npy(body)

    @pytest.mark.parametrize(
        "head",
        [
            pytest.param(shaped("(-1, -8, 8)"), id="negative axes"),
            pytest.param(shaped(f"(0, {2**70}, 8)"), id="an axis beyond the address space"),
            pytest.param(shaped(f"(1, 0x{'f' * 9_000}, 8)"), id="an axis of more digits than Python prints"),
            pytest.param(shaped(str((1,) * 100)), id="a hundred axes"),
            pytest.param("{[]: 1}", id="a list as a key"),
            pytest.param("{1: 2, 'a': 3}", id="keys that cannot be sorted"),
            pytest.param("{'descr': ((),), 'fortran_order': False, 'shape': (1, 8, 8)}", id="half a type"),
            pytest.param("-" * 9_000 + "1", id="too deep for the parser"),
            pytest.param("1" + "+1" * 4_000, id="too deep for the interpreter"),
            pytest.param("(" * 9_000, id="open brackets"),
        ],
    )
    def test_a_hostile_head_is_refused_in_a_few_words(self, head: str) -> None:
        body = b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head.encode() + bytes(64)
        with pytest.raises(RequestError) as refused:
            packed.from_npy(body)
        assert len(refused.value.message) < 400

    def test_a_truth_for_a_length(self) -> None:
        head = shaped("(True, 8, 8)")
        body = b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head.encode() + bytes(64)
        assert packed.from_npy(body).shape == (1, 8, 8)

    def test_a_head_that_promises_too_much_takes_no_memory(self) -> None:
        with pytest.raises(RequestError, match="bytes, not"):
            packed.from_npy(npy(GREY).replace(b"(5, 9, 11), }          ", b"(9000, 4096, 4096), }  "))


class TestArrow:
    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
    def test_encoded_images(self, kind: pa.DataType) -> None:
        images = [b"one", None, b"", b"four"]
        assert packed.from_arrow(stream(pa.array(images, kind))) == images

    @pytest.mark.parametrize("crops", [GREY, RGB], ids=["grey", "rgb"])
    def test_tensors(self, crops: Pixels) -> None:
        np.testing.assert_array_equal(packed.from_arrow(stream(tensors(crops))), crops)

    @pytest.mark.parametrize(
        ("body", "error", "message"),
        [
            pytest.param(b"", RequestError, "no Arrow", id="empty"),
            pytest.param(b"abc", RequestError, "no Arrow", id="text"),
            pytest.param(stream(tensors(GREY))[:-60], RequestError, "no Arrow", id="cut"),
            pytest.param(stream(pa.array([b"x"]), name="picture"), RequestError, "no column 'image'", id="other name"),
            pytest.param(stream(pa.array(["text"])), RequestError, "string", id="strings"),
            pytest.param(stream(tensors(GREY.astype(np.float32))), RequestError, "float", id="float tensors"),
            pytest.param(stream(pa.array([], pa.binary())), RequestError, "no crops", id="none"),
            pytest.param(stream(pa.array([b"x"]).dictionary_encode()), RequestError, "dictionaries", id="dictionary"),
            pytest.param(
                stream(pa.array([b""] * (packed.MAX_CROPS + 1), pa.binary())), BodyTooLargeError, "at most", id="many"
            ),
        ],
    )
    def test_refused(self, body: bytes, error: type[EyestateError], message: str) -> None:
        with pytest.raises(error, match=message):
            packed.from_arrow(body)

    @pytest.mark.parametrize("compression", ["lz4", "zstd"])
    def test_a_compressed_stream_is_refused_before_it_grows(self, compression: str) -> None:
        bomb = stream(pa.array([bytes(2**26)], pa.binary()), compression=compression)
        assert len(bomb) < 2**19
        allocated = pa.total_allocated_bytes()
        with pytest.raises(RequestError, match="compressed"):
            packed.from_arrow(bomb)
        assert pa.total_allocated_bytes() - allocated < 2**20

    def test_views_of_the_same_bytes_do_not_multiply_them(self) -> None:
        body = batches(views(2**20, 10_000), ["image"])
        assert len(body) < 2**21
        tracemalloc.start()
        with pytest.raises(RequestError, match="overlap"):
            packed.from_arrow(body)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 * 2**20

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            pytest.param(batches(pa.array([b"x"]), ["image", "image"]), "2 columns 'image'", id="twice the column"),
            pytest.param(batches(pa.array([b"x"]), ["y" * 1_000] * 90), "no column 'image'", id="long names"),
            pytest.param(
                batches(pa.array([], pa.binary()), ["image"], packed.MAX_CROPS + 1), "record batches", id="many batches"
            ),
            pytest.param(tensors_with(f'{{"shape":{[1] * 100 + [64]}}}', 64), "dimensions", id="a hundred axes"),
            pytest.param(tensors_with('{"shape":[8,8,3],"permutation":[2,0,1]}', 192), "strides", id="permuted"),
            pytest.param(tensors_with("[" * 100_000, 64), "JSON", id="deep JSON"),
        ],
    )
    def test_a_hostile_stream_is_refused_in_a_few_words(self, body: bytes, message: str) -> None:
        with pytest.raises(RequestError, match=message) as refused:
            packed.from_arrow(body)
        assert len(refused.value.message) < 400

    def test_tensors_with_a_hole(self) -> None:
        column = pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.uint8(), (8, 8)), pa.array([[1] * 64, None], pa.list_(pa.uint8(), 64))
        )
        with pytest.raises(RequestError, match="nulls"):
            packed.from_arrow(stream(column))


@settings(max_examples=300, deadline=None)
@given(
    body=st.sampled_from([npy(GREY), stream(tensors(GREY)), stream(pa.array([b"one", None]))]),
    changes=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=6),
    length=st.integers(0, 3000),
)
def test_a_damaged_body_is_refused_or_read_but_never_breaks(
    body: bytes, changes: list[tuple[int, int]], length: int
) -> None:
    damaged = bytearray(body)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    for read in (packed.from_npy, packed.from_arrow):
        with suppress(RequestError, ImageError):
            read(bytes(damaged[: max(length, 1)]))


def test_answers() -> None:
    scores = np.array([0.25, np.nan], np.float32)
    np.testing.assert_array_equal(np.load(io.BytesIO(packed.to_npy(scores))), scores)
    body = packed.to_arrow(scores, ["closed", None], [None, ("corrupt_image", "broken")], {"model_name": "m"})
    table = pa.ipc.open_stream(body).read_all()
    assert table.schema.metadata == {b"model_name": b"m"}
    assert table.to_pylist() == [
        {"score": 0.25, "state": "closed", "error": None, "message": None},
        {"score": None, "state": None, "error": "corrupt_image", "message": "broken"},
    ]


def test_bodies_are_read_without_onnx_runtime() -> None:
    check = "import sys, eyestate.client, eyestate.server.packed; sys.exit('onnxruntime' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
