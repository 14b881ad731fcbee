"""What careless and hostile clients send: damaged and contrived bodies, ambiguous heads, floods, and silence.

Every request hidden in the body or behind the end of another has an id that begins with ``SMUGGLED``: whatever is
answered with such an id was taken for a request.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from random import Random
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from eyestate.images import MAX_SIDE
from eyestate.media_types import ARROW, JSON, MULTIPART, NPY, OCTET_STREAM
from loadtests.chaos.requests import arrow, inference, packed
from tools.harness import crops

SMUGGLED: Final = "smuggled"
_HIDDEN: Final = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Request-ID: smuggled\r\n\r\n"
_PAGES: Final = ("/", "/try", "/livez", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v2", "/v2/health/ready")
_METHODS: Final = ("PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "HEAD", "BREW")
_HEADERS: Final = 5_000  # bytes of each of the headers that make a head too long
_FLOOD: Final = 200
_LEAVES: Final = 0.5  # of the clients whose request ends in the middle
_SEGMENTS: Final = 40_000
_NESTED: Final = 100_000
_INFLATED: Final = 32 * 2**20


class Attack(NamedTuple):
    """What is sent over a connection.

    Attributes:
        kind: of attack.
        pieces: the bytes, with a short pause after each piece but the last.
        requests: how many there are, for a strict reader.
        whole: whether the last of them is; the client says nothing more in any case.
        leaves: whether the client is gone before an answer.
    """

    kind: str
    pieces: Sequence[bytes]
    requests: int = 1
    whole: bool = True
    leaves: bool = False


class Attacks:
    """An endless mix of attacks on all routes, the same for the same seed."""

    def __init__(self, model: str, seed: int = 0) -> None:
        """Args:
        model: the name under which the inference protocol knows what is served.
        seed: of the choice.
        """
        self._choose = Random(seed)  # noqa: S311  # no secret
        infer = f"/v2/models/{model}/infer"
        image = crops.jpeg(crops.eye())
        form = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + image + b"\r\n--b--\r\n"
        self._bodies = [
            *((path, OCTET_STREAM, body) for body in _images() for path in ("/v1/score", "/v1/faces")),
            ("/v1/score/batch", NPY, packed()),
            ("/v1/score/batch", ARROW, arrow()),
            ("/v1/score/batch", f"{MULTIPART}; boundary=b", form.replace(b"image", b"images")),
            ("/v1/score", f"{MULTIPART}; boundary=b", form),
            (infer, JSON, inference()),
        ]
        self._giants = [*_giants(infer)]
        self._paths = [path for path, _, _ in self._bodies]
        self._heads = [*_heads(image)]

    def __iter__(self) -> Iterator[Attack]:
        """Most attacks are damaged bodies; what is dear for the attacker or for the service is rare."""
        makers = (self._damaged, self._head, self._page, self._cut, self._flood, self._giant)
        while True:
            (make,) = self._choose.choices(makers, (60, 25, 10, 3, 1, 1))
            yield make()

    def _damaged(self) -> Attack:
        path, media_type, body = self._choose.choice(self._bodies)
        return Attack("damaged body", [_post(path, media_type, self._mutated(body))])

    def _mutated(self, sound: bytes) -> bytes:
        body = bytearray(sound)
        for _ in range(self._choose.randint(1, 4)):
            at = self._choose.randrange(len(body) + 1)
            match self._choose.randrange(6):
                case 0:
                    del body[at:]
                case 1:
                    body[at : at + 1] = self._choose.randbytes(1)
                case 2:
                    body[at:at] = self._choose.randbytes(self._choose.randint(1, 64))
                case 3:
                    del body[at : at + self._choose.randint(1, 64)]
                case 4:
                    body[at:at] = _HIDDEN
                case _:
                    body[at:] = self._choose.choice(self._bodies)[2][at:]
        return bytes(body)

    def _head(self) -> Attack:
        kind, pieces, requests = self._choose.choice(self._heads)
        path = self._choose.choice(self._paths).encode()
        return Attack(kind, [piece.replace(b"/v1/score", path, 1) for piece in pieces], requests)

    def _page(self) -> Attack:
        path = self._choose.choice((*_PAGES, *self._paths))
        odd = self._choose.choice(("", "%0Ax", "/..", "%00", "?quality=maybe", "?" + "a=1&" * 200, "//", "#x"))
        method = self._choose.choice(("GET", *_METHODS))
        return Attack("odd method or path", [f"{method} {path}{odd} HTTP/1.1\r\nHost: x\r\n\r\n".encode()])

    def _cut(self) -> Attack:
        path, media_type, body = self._choose.choice(self._bodies)
        request = _post(path, media_type, body)
        part = request[: self._choose.randrange(1, len(request))]
        return Attack("ends in the middle", [part], whole=False, leaves=self._choose.random() < _LEAVES)

    def _flood(self) -> Attack:
        path = self._choose.choice(_PAGES)
        return Attack("pipelined", [f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * _FLOOD], _FLOOD)

    def _giant(self) -> Attack:
        kind, request = self._choose.choice(self._giants)
        return Attack(kind, [request])


def _post(path: str, media_type: str, body: bytes, *headers: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Type: {media_type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*head, "\r\n"]).encode() + body


def _images() -> Iterator[bytes]:
    """An eye in each format, sound."""
    eye = Image.fromarray(crops.eye())
    for image_format, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("BMP", {}),
    ):
        file = io.BytesIO()
        eye.save(file, image_format, **options)
        yield file.getvalue()


def _giants(infer: str) -> Iterator[tuple[str, bytes]]:
    """Requests that are small for what they make the service do, by kind."""
    image, blank = crops.jpeg(crops.eye()), io.BytesIO()
    Image.new("L", (MAX_SIDE, MAX_SIDE), 128).save(blank, "WEBP", lossless=True, method=0)
    yield "large image in few bytes", _post("/v1/score", OCTET_STREAM, blank.getvalue())
    yield "large image in few bytes", _post("/v1/faces", OCTET_STREAM, blank.getvalue())
    yield "decompression bomb", _post("/v1/score", OCTET_STREAM, _png(65_535, zlib.compress(bytes(2**20))))
    yield "decompression bomb", _post("/v1/score", OCTET_STREAM, _png(MAX_SIDE, zlib.compress(bytes(_INFLATED))))
    inflated = gzip.compress(bytes(_INFLATED), mtime=0)
    yield "compressed body", _post(infer, JSON, inflated, "Content-Encoding: gzip")
    yield "compressed body", _post("/v1/score/batch", NPY, inflated, "Content-Encoding: gzip")
    segments = image[:2] + b"\xff\xe1\x00\x08Exif\x00\x00" * _SEGMENTS + image[2:]
    yield "very many segments", _post("/v1/score", OCTET_STREAM, segments)
    yield "nested JSON", _post(infer, JSON, b"[" * _NESTED)
    yield "nested JSON", _post(infer, JSON, json.dumps({"inputs": [[]] * _NESTED}).encode())
    noise = np.random.default_rng(0).integers(0, 256, (256, crops.SIDE, crops.SIDE), np.uint8)
    file = io.BytesIO()
    np.save(file, noise)
    yield "crops without eyes", _post("/v1/score/batch", NPY, file.getvalue())


def _png(side: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _heads(image: bytes) -> Iterator[tuple[str, Sequence[bytes], int]]:
    """Kind, pieces and number of requests whose heads or framing are odd; each is for ``/v1/score``."""
    post, length = b"POST /v1/score HTTP/1.1\r\nHost: x\r\n", b"Content-Length: %d\r\n" % len(_HIDDEN)
    chunked = b"Transfer-Encoding: chunked\r\n"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(_HIDDEN), _HIDDEN)
    offers = (b"h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", b"websocket", b"TLS/1.2")
    for offer in offers:
        upgrade = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % offer
        yield "upgrade", [post + upgrade + length + b"\r\n" + _HIDDEN], 1
        yield "upgrade", [post + upgrade + chunked + b"\r\n", chunks], 1
        yield "upgrade", [post + upgrade + length + b"\r\n", _HIDDEN[:20], _HIDDEN[20:]], 1
    yield "body like a request", [post + length + b"\r\n" + _HIDDEN], 1
    yield "body like a request", [post + chunked + b"\r\n" + chunks], 1
    for framing in (
        length + chunked,
        chunked + length,
        length + b"Content-Length: 0\r\n",
        length + length,
        b"Content-Length: +0\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 0x10\r\n",
        b"Content-Length: 0, 0\r\n",
        b"Content-Length : 0\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n",
        b" X: a\r\n" + length,
        length + b"X: a\r\n b\r\n",
        length + b"X: a\nContent-Length: 0\r\n",
        length + b"X\x00: a\r\n",
        length + b"X: \x00\r\n",
        length + b"Host: y\r\n",
    ):
        yield "ambiguous head", [post + framing + b"\r\n" + _HIDDEN], 1
    for chunk in (b"zz\r\n", b"-1\r\n", b"5;x=\n\r\n", b"FFFFFFFFFFFFFFFFF\r\n", b"0\r\nContent-Length: 5\r\n\r\n"):
        yield "broken chunks", [post + chunked + b"\r\n" + chunk + _HIDDEN], 1
    yield "long head", [post + b"X: " + b"a" * 2**16 + b"\r\n", b"Y: " + b"a" * 2**10 + b"\r\n\r\n"], 1
    yield "long head", [post + b"".join(b"X: %b\r\n" % (b"a" * _HEADERS) for _ in range(14)) + b"\r\n"], 1
    yield "no HTTP/1.1", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], 1
    yield "no HTTP/1.1", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)], 1
    yield "no HTTP/1.1", [b"GET /v1/score\r\n\r\n"], 1
    yield "no HTTP/1.1", [Random(0).randbytes(500)], 1  # noqa: S311
    whole = b"Content-Length: %d\r\n\r\n" % len(image) + image
    yield "waits for 100", [post + b"Expect: 100-continue\r\n" + b"Content-Length: %d\r\n\r\n" % len(image), image], 1
    yield "pipelined", [(post + whole) * 5], 5
    yield "foreign host", [post.replace(b"Host: x", b"Host: evil.example") + whole], 1
