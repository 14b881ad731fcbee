"""Request bodies to image bytes, within limits."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from eyestate.arrays import Pixels
from eyestate.errors import BodyTooLargeError, EmptyBodyError, OverloadedError, RequestError, UnsupportedMediaTypeError
from eyestate.images import MAX_BYTES
from eyestate.media_types import ARROW, MULTIPART, NPY, OCTET_STREAM
from eyestate.server import codings, packed
from eyestate.server.admission import SMALL_BODY_BYTES, Upload

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

UPLOAD: Final = "eyestate.upload"  # in a request's scope: its ``Upload``
BODY_BUDGET: Final = "eyestate.body_budget"  # in a request's scope: the ``BodyBudget`` that its body counts against
MAX_BODY_BYTES: Final = 64 * 2**20
INLINE_BYTES: Final = 16 * 2**10  # smaller bodies are parsed faster than a thread starts
MAX_IMAGES: Final = 1_000
MAX_PHOTOS: Final = 20  # of which the best is asked for: of the largest size they take up to 15 s of one core
MAX_PARTS: Final = MAX_IMAGES + 100  # of any name
_MAX_PART_HEADER_BYTES: Final = 2_048  # per header that says what a part is: file names may be long
_HELD: Final = "eyestate.held_bytes"
_ENVELOPE_BYTES: Final = 64 * 2**10  # overhead of multipart for one image


class BodyBudget:
    """Limits the bytes of all request bodies held at a time, so that many large ones cannot exhaust the memory."""

    def __init__(self, limit: int = 8 * MAX_BODY_BYTES, make_room: Callable[[], bool] = lambda: False) -> None:
        """Args:
        limit: in bytes; an eighth of it is kept for small bodies.
        make_room: ends a request whose body hardly comes, and releases it; whether there was one.
        """
        self._limit = limit
        self._make_room = make_room
        self.held = 0

    def take(self, scope: Scope, size: int) -> None:
        """Charge bytes that a request received.

        Raises:
            OverloadedError: they exceed the budget; the request may be sent again once others are answered.
        """
        held = scope.get(_HELD, 0) + size
        limit = self._limit if held <= SMALL_BODY_BYTES else self._limit - self._limit // 8
        while self.held + size > limit:
            if not self._make_room():
                raise OverloadedError("the bodies of other requests fill the memory; try again in 1 s", 1)
        self.held += size
        scope[_HELD] = held

    def release(self, scope: Scope) -> None:
        """Return the bytes of a request that has ended."""
        self.held -= scope.pop(_HELD, 0)


async def single_image(request: Request, several: str = "send them to /v1/score/batch") -> bytes:
    """The image of a request whose body is the image, or multipart with one part named ``image``.

    Args:
        request: whose body it is.
        several: what to do with several images, for the error.

    Raises:
        RequestError: the body has no such image or is over the limits; its subclasses say which.
    """
    media_type = _media_type(request.scope["headers"])
    if media_type == MULTIPART:
        images = await _parts(request, "image", MAX_BYTES + _ENVELOPE_BYTES)
        if len(images) > 1:
            raise RequestError(f"there are {len(images)} images; {several}")
        return images[0]
    if _is_image(media_type):
        return await body(request, MAX_BYTES)
    raise UnsupportedMediaTypeError(
        f"the content type is {media_type}; send the image itself with 'Content-Type: image/jpeg' (any image/* or "
        f"{OCTET_STREAM}), or {MULTIPART} with the part 'image'"
    )


async def burst(request: Request) -> list[bytes]:
    """The photos of a request for the best of several, in order, at least one.

    Raises:
        RequestError: the body has no photos or is over the limits; its subclasses say which.
    """
    media_type = _media_type(request.scope["headers"])
    if media_type != MULTIPART:
        raise UnsupportedMediaTypeError(
            f"the content type is {media_type or 'missing'}; send {MULTIPART} with the parts 'images'"
        )
    return await _parts(request, "images", MAX_BODY_BYTES, MAX_PHOTOS)


async def many_images(request: Request) -> Pixels | Sequence[packed.Encoded | None]:
    """The crops of a bulk request, in order, at least one.

    Returns:
        Encoded images of multipart parts named ``images`` or of an Arrow stream (None for a null), or uint8
        (N, height, width) or (N, height, width, 3) of a ``.npy`` file or of an Arrow stream's tensors.

    Raises:
        RequestError: the body has no such crops or is over the limits; its subclasses say which.
    """
    media_type = _media_type(request.scope["headers"])
    if media_type == NPY:
        return packed.from_npy(await body(request, MAX_BODY_BYTES))
    if media_type == ARROW:
        content = await body(request, MAX_BODY_BYTES)
        if len(content) <= INLINE_BYTES:
            return packed.from_arrow(content)
        return await asyncio.to_thread(packed.from_arrow, content)
    if media_type == MULTIPART:
        return await _parts(request, "images", MAX_BODY_BYTES)
    raise UnsupportedMediaTypeError(
        f"the content type is {media_type or 'missing'}; send {MULTIPART} with the parts 'images', {NPY} or {ARROW}"
    )


async def body(request: Request, max_bytes: int) -> bytes:
    """The whole body, decoded from its content coding.

    Raises:
        EmptyBodyError, BodyTooLargeError, UnsupportedCodingError, MalformedRequestError: it is empty, over the limit,
            or not in a coding that is known.
    """
    received = _Received(request, max_bytes)
    chunk, more = await received.chunk()
    if not more:
        return chunk
    whole = io.BytesIO()  # a list of chunks would cost many times their bytes where they are tiny
    whole.write(chunk)
    while more:
        chunk, more = await received.chunk()
        whole.write(chunk)
    return whole.getvalue()  # what it holds, not a copy


@lru_cache(maxsize=64)
def is_image(content_type: bytes) -> bool:
    """Whether a body of that type is an image itself."""
    return _is_image(_bare(content_type))


def _is_image(media_type: str) -> bool:
    return media_type.startswith("image/") or media_type in (OCTET_STREAM, "")


def _media_type(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"content-type":
            return _bare(value)
    return ""


def _bare(content_type: bytes) -> str:
    """A media type without its parameters."""
    return str(content_type.partition(b";")[0], "latin-1").strip().lower()


class _Received:
    """A body as it arrives, decoded, and rejected as soon as it is known to be empty or over the limit."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        self._request = request
        self._max_bytes = max_bytes
        self._size = 0
        self._more = True
        encodings = []
        for name, value in request.scope["headers"]:
            if name == b"content-length":
                self._refuse_over(int(value))
            elif name == b"content-encoding":
                encodings.append(value)
        self._inflater = codings.inflater(b",".join(encodings).decode("latin-1")) if encodings else None

    async def chunk(self) -> tuple[bytes, bool]:
        """The next bytes, and whether there are more."""
        inflater = self._inflater
        if inflater is None:
            chunk = await self._arrived()
        elif inflater.pending:
            chunk = await asyncio.to_thread(inflater.step)
        else:
            chunk = inflater.step(await self._arrived())
        self._size += len(chunk)
        self._refuse_over(self._size)
        self._request.scope[BODY_BUDGET].take(self._request.scope, len(chunk))
        if self._more or (inflater is not None and inflater.pending):
            return chunk, True
        if self._size == 0:
            raise EmptyBodyError("the body is empty; send an image")
        if inflater is not None:
            inflater.finish()
        return chunk, False

    async def _arrived(self) -> bytes:
        """The next bytes as they were sent."""
        upload: Upload = self._request.scope[UPLOAD]
        upload.expect()
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._more = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        upload.arrived(len(chunk), complete=not self._more)
        return chunk

    def _refuse_over(self, size: int) -> None:
        if size > self._max_bytes:
            raise BodyTooLargeError(f"the body is over the limit of {self._max_bytes:,} bytes")


async def _parts(request: Request, name: str, max_bytes: int, max_images: int = MAX_IMAGES) -> list[bytes]:
    """The contents of the multipart parts of one name; parts of other names are ignored."""
    content_type = request.headers["content-type"]
    if len(content_type) > _MAX_PART_HEADER_BYTES:  # 60 KB would take 50 ms
        raise RequestError(f"the content type is over the limit of {_MAX_PART_HEADER_BYTES:,} bytes")
    _, options = parse_options_header(content_type)
    if b"boundary" not in options:
        raise RequestError(f"the content type {MULTIPART} names no boundary")
    collector = _Collector(name.encode(), max_images)
    try:
        parser = MultipartParser(options[b"boundary"], collector.callbacks(), max_header_size=_MAX_PART_HEADER_BYTES)
        received, more = _Received(request, max_bytes), True
        while more:
            chunk, more = await received.chunk()
            if len(chunk) <= INLINE_BYTES:
                parser.write(chunk)
            else:
                await asyncio.to_thread(parser.write, chunk)
    except FormParserError:  # its message has numbers of bytes and positions in a chunk
        raise RequestError("the multipart body is malformed, or has another boundary than the content type") from None
    if not collector.complete:
        raise RequestError("the multipart body ends before its closing boundary")
    if not collector.parts:
        raise RequestError(f"the multipart body has no part named '{name}'")
    return [part.getvalue() for part in collector.parts]  # what they hold, not a copy


class _Collector:
    """Collects the parts of one name from the parser's callbacks."""

    def __init__(self, name: bytes, max_images: int) -> None:
        self.name = name
        self.max_images = max_images
        self.parts: list[io.BytesIO] = []
        self.complete = False
        self._header = bytearray()
        self._value = bytearray()
        self._named = False
        self._wanted = False
        self._begun = 0

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._part_begin,
            "on_header_begin": self._header_begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._begun += 1
        if self._begun > MAX_PARTS:
            raise BodyTooLargeError(f"there are more than {MAX_PARTS:,} parts in the multipart body")
        self._named = self._wanted = False

    def _header_begin(self) -> None:
        self._header.clear()
        self._value.clear()

    def _header_end(self) -> None:
        if not self._named and self._header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            self._named = True
            self._wanted = options.get(b"name") == self.name

    def _headers_finished(self) -> None:
        if self._wanted:
            if len(self.parts) == self.max_images:
                raise BodyTooLargeError(
                    f"there are more than {self.max_images:,} images; send them in several requests"
                )
            self.parts.append(io.BytesIO())

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._wanted:
            self.parts[-1].write(data[start:end])

    def _end(self) -> None:
        self.complete = True
