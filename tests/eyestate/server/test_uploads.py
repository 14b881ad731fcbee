"""Bodies as they arrive, whole and damaged, in any pieces and codings."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import threading
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from python_multipart.multipart import MultipartParser
from starlette.requests import Request
from starlette.types import Message

from eyestate.errors import BodyTooLargeError, EmptyBodyError, EyestateError, MalformedRequestError, OverloadedError
from eyestate.media_types import ARROW, JSON, MULTIPART, NPY
from eyestate.server.admission import Places, Upload
from eyestate.server.openinference.tensors import JSON_LENGTH, read
from eyestate.server.uploads import (
    BODY_BUDGET,
    MAX_BODY_BYTES,
    UPLOAD,
    BodyBudget,
    body,
    many_images,
    single_image,
)
from tests.eyestate.server.test_packed import batches, npy, shaped, stream, tensors, tensors_with

RNG = np.random.default_rng(6)
GREY = RNG.integers(0, 256, (3, 9, 8), dtype=np.uint8)
RGB = RNG.integers(0, 256, (2, 9, 8, 3), dtype=np.uint8)
FILES = [b"\xff\xd8 an eye", b"", b"another\r\n--x eye"]
LOOP = asyncio.Runner()
Reader = Callable[[Request], Awaitable[Any]]
FORM = f"{MULTIPART}; boundary=x"
CODE: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.compress, "deflate": zlib.compress}


def request(
    content: bytes, content_type: str, coding: str = "", piece: int = 2**16, more: dict[str, str] | None = None
) -> Request:
    """A request whose body arrives in pieces."""
    pieces = [content[start : start + piece] for start in range(0, len(content), piece)] or [b""]

    async def receive() -> Message:
        chunk = pieces.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(pieces)}

    named = {"content-type": content_type, "content-encoding": coding, **(more or {})}
    scope = {
        "type": "http",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in named.items() if value],
        BODY_BUDGET: BodyBudget(),
        UPLOAD: Upload("", Places()),
    }
    return Request(scope, receive)


def outcome(reader: Reader, request: Request) -> Any:
    """What is read, as something that can be compared; what a client may be told."""

    async def run() -> Any:
        try:
            return await reader(request)
        except EyestateError as error:
            return error

    result = LOOP.run(run())
    if isinstance(result, EyestateError):
        assert 400 <= result.status < 500
        assert len(result.message) < 1_000
        return type(result), result.message
    return (result.shape, result.tobytes()) if isinstance(result, np.ndarray) else result


def form(files: list[bytes], name: str = "images") -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a.jpg"\r\n\r\n'.encode()
    return b"".join(head + file + b"\r\n" for file in files) + b"--x--\r\n"


class TestBody:
    @pytest.mark.parametrize("coding", CODE)
    @pytest.mark.parametrize("piece", [1, 7, 2**16])
    def test_is_decoded(self, coding: str, piece: int) -> None:
        content = GREY.tobytes()
        asked = request(CODE[coding](content), "image/jpeg", coding, piece)
        assert LOOP.run(body(asked, len(content))) == content
        assert asked.scope[UPLOAD].complete
        assert asked.scope[BODY_BUDGET].held == len(content)

    @pytest.mark.parametrize("coding", CODE)
    def test_is_limited_as_decoded(self, coding: str) -> None:
        asked = request(CODE[coding](RNG.bytes(1_000)), "image/jpeg", coding)
        with pytest.raises(BodyTooLargeError, match="999 bytes"):
            LOOP.run(body(asked, 999))

    @pytest.mark.parametrize("coding", CODE)
    def test_without_a_byte(self, coding: str) -> None:
        with pytest.raises(EmptyBodyError):
            LOOP.run(body(request(CODE[coding](b""), "image/jpeg", coding), 1_000))

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    def test_that_is_cut_off(self, coding: str) -> None:
        with pytest.raises(MalformedRequestError, match="cut off"):
            LOOP.run(body(request(CODE[coding](b"eye")[:-1], "image/jpeg", coding), 1_000))

    def test_takes_from_the_budget_what_it_is_once_inflated(self) -> None:
        content = RNG.bytes(2**18).hex().encode()
        asked = request(gzip.compress(content), "image/jpeg", "gzip")
        asked.scope[BODY_BUDGET] = BodyBudget(limit=len(content) - 1)
        with pytest.raises(OverloadedError):
            LOOP.run(body(asked, MAX_BODY_BYTES))
        assert asked.scope[BODY_BUDGET].held > 2**18

    @pytest.mark.parametrize("size", [2**22, 49 * 2**20])
    def test_a_bomb_is_refused_before_it_grows(self, size: int) -> None:
        bomb = gzip.compress(bytes(size))
        asked = request(bomb, "image/jpeg", "gzip")
        with pytest.raises(BodyTooLargeError, match="1/100"):
            LOOP.run(body(asked, MAX_BODY_BYTES))
        assert asked.scope[BODY_BUDGET].held < 100 * len(bomb) + 2**20


edits = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["overwrite", "insert", "delete", "repeat", "cut"]),
        st.binary(max_size=8)
        | st.sampled_from([b"\r\n", b"--x", b"\0" * 4, b"\xff" * 4, b"(", b"[", b'"', b"null", b"-1"]),
    ),
    max_size=4,
)


def damaged(content: bytes, changes: list[tuple[float, str, bytes]]) -> bytes:
    for share, kind, piece in changes:
        at = int(share * len(content))
        before, after = content[:at], content[at:]
        match kind:
            case "overwrite":
                content = before + piece + after[len(piece) :]
            case "insert":
                content = content[:at] + piece + after
            case "delete":
                content = before + after[len(piece) + 1 :]
            case "repeat":
                content = before + after[:100] * 3 + after[100:]
            case _:
                content = before
    return content


FORMS = [form(FILES), form(FILES[:1], "image"), form(FILES[::-1], "other"), form([b"\r\n" * 50 + b"--x"] * 3)]
NPYS = [npy(GREY), npy(RGB, (2, 0)), npy(GREY.astype(np.float32)), npy(np.asfortranarray(GREY)), npy(GREY[:0])]
HEADS = [shaped("(True, 8, 8)"), shaped("(-1, 8, 8)"), shaped(f"({2**70}, 8, 8)"), "{[]: 1}", "(" * 500, "-" * 500]
ARROWS = [
    stream(pa.array(FILES, pa.binary())),
    stream(pa.array([*FILES, None], pa.binary_view())),
    stream(tensors(GREY)),
    stream(tensors(RGB)),
    stream(pa.array(FILES, pa.binary()), compression="lz4"),
    stream(pa.array(["a"]).dictionary_encode()),
    batches(pa.array(FILES), ["image", "image"]),
    tensors_with('{"shape":[8,8,3],"permutation":[2,0,1]}', 192),
]
CROPS: dict[str, Any] = {"name": "crops", "datatype": "UINT8", "shape": [*GREY.shape], "data": GREY.tolist()}
IMAGES: dict[str, Any] = {
    "name": "images",
    "datatype": "BYTES",
    "shape": [3],
    "data": [base64.encodebytes(file).decode() for file in FILES],
}
DOCUMENTS: list[dict[str, Any]] = [
    {"inputs": [CROPS]},
    {"inputs": [CROPS | {"data": GREY.ravel().tolist()}], "outputs": [{"name": "score"}], "id": "7"},
    {"inputs": [IMAGES, CROPS], "parameters": {"binary_data_output": True}},
]


def with_binary() -> tuple[bytes, int]:
    """A request of the binary tensor extension, and the bytes of its JSON."""
    tail = b"".join(len(file).to_bytes(4, "little") + file for file in FILES)
    images = {**IMAGES, "parameters": {"binary_data_size": len(tail)}}
    del images["data"]
    crops = {**CROPS, "data": None, "parameters": {"binary_data_size": GREY.size}}
    head = json.dumps({"inputs": [images, crops]}).encode()
    return head + tail + GREY.tobytes(), len(head)


def fuzzed(reader: Reader, as_sent: tuple[bytes, str], coding: str, piece: int, **more: str) -> None:
    """A body is read or refused, and the same however it comes."""
    content, content_type = as_sent
    expected = outcome(reader, request(content, content_type, more=more))
    assert outcome(reader, request(content, content_type, "", piece, more)) == expected
    assert outcome(reader, request(CODE[coding](content), content_type, coding, piece, more)) == expected


FUZZ = settings(max_examples=3 * settings().max_examples)
codings = st.sampled_from(["gzip", "deflate"])
pieces = st.integers(20, 2_000)


@pytest.mark.fuzz
class TestAnyBytes:
    @FUZZ
    @given(st.sampled_from(FORMS), edits, codings, pieces, st.sampled_from([many_images, single_image]))
    def test_multipart(self, content: bytes, changes: list[Any], coding: str, piece: int, reader: Reader) -> None:
        fuzzed(reader, (damaged(content, changes), FORM), coding, piece)

    @FUZZ
    @given(st.sampled_from(NPYS), edits, codings, pieces)
    def test_npy(self, content: bytes, changes: list[Any], coding: str, piece: int) -> None:
        fuzzed(many_images, (damaged(content, changes), NPY), coding, piece)

    @FUZZ
    @given(st.sampled_from(HEADS) | st.text(max_size=200), edits)
    def test_the_head_of_an_npy(self, head: str, changes: list[Any]) -> None:
        text = damaged(head.encode(), changes)[:2_000]
        content = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + bytes(64)
        outcome(many_images, request(content, NPY))

    @FUZZ
    @given(st.sampled_from(ARROWS), edits, codings, pieces)
    def test_arrow(self, content: bytes, changes: list[Any], coding: str, piece: int) -> None:
        fuzzed(many_images, (damaged(content, changes), ARROW), coding, piece)

    @FUZZ
    @given(st.sampled_from(DOCUMENTS), edits, codings, pieces)
    def test_json(self, document: dict[str, Any], changes: list[Any], coding: str, piece: int) -> None:
        fuzzed(inference, (damaged(json.dumps(document).encode(), changes), JSON), coding, piece)

    @FUZZ
    @given(edits, codings, pieces, st.integers(-1, 400) | st.just(with_binary()[1]))
    @example([], "gzip", 7, with_binary()[1])
    def test_json_and_binary(self, changes: list[Any], coding: str, piece: int, length: int) -> None:
        content = damaged(with_binary()[0], changes)
        fuzzed(inference, (content, JSON), coding, piece, **{JSON_LENGTH: str(length)})


async def inference(request: Request) -> Any:
    _, tensors = read(await body(request, MAX_BODY_BYTES), request.headers.get(JSON_LENGTH))
    return [tensor if isinstance(tensor, list) else (tensor.shape, tensor.tobytes()) for tensor in tensors]


@pytest.mark.parametrize("parts", [1, 4])
def test_a_large_body_is_not_copied_once_it_is_complete(parts: int) -> None:
    """The loop would stand still meanwhile, 0.04 s for the largest."""
    content = form([bytes(2**22)] * 4) if parts > 1 else bytes(2**24)
    asked = request(content, FORM if parts > 1 else NPY)

    async def most() -> int:
        tracemalloc.start()
        try:
            _ = await (many_images(asked) if parts > 1 else body(asked, MAX_BODY_BYTES))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert LOOP.run(most()) < 1.25 * len(content)


def test_large_pieces_of_a_form_are_parsed_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    write = MultipartParser.write

    def noting(parser: MultipartParser, data: bytes) -> int:
        threads.append(threading.current_thread().name)
        return write(parser, data)

    monkeypatch.setattr(MultipartParser, "write", noting)
    files = [b"x"] * 900
    assert outcome(many_images, request(form(files), FORM, piece=2**20)) == files
    assert threads
    assert "MainThread" not in threads
    threads.clear()
    assert outcome(many_images, request(form(files[:20]), FORM)) == files[:20]
    assert threads == ["MainThread"]
