from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyestate.errors import BodyTooLargeError, MalformedRequestError, UnsupportedCodingError
from eyestate.server.codings import FREE_BYTES, MAX_RATIO, inflater

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
}


def inflated(coding: str, body: bytes, piece: int = 2**16) -> bytes:
    stream = inflater(coding)
    assert stream is not None
    plain = b""
    for start in range(0, len(body), piece):
        plain += stream.step(body[start : start + piece])
        while stream.pending:
            plain += stream.step()
    stream.finish()
    return plain


@pytest.mark.parametrize("header", ["", "identity", " Identity ", "identity, identity", ","])
def test_no_coding(header: str) -> None:
    assert inflater(header) is None


@pytest.mark.parametrize("header", ["br", "zstd", "compress", "gzip, br", "gzip, gzip", "gzip;q=1", "none", "é" * 500])
def test_other_codings_are_named(header: str) -> None:
    with pytest.raises(UnsupportedCodingError, match="gzip, deflate or none") as refused:
        inflater(header)
    assert len(refused.value.message) < 300


@given(coding=st.sampled_from(sorted(COMPRESS)), body=st.binary(max_size=500), piece=st.integers(1, 50))
def test_bodies_in_any_pieces(coding: str, body: bytes, piece: int) -> None:
    assert inflated(coding, COMPRESS[coding](body), piece) == body
    assert inflated(f"identity, {coding}", COMPRESS[coding](body), piece) == body


@pytest.mark.parametrize("coding", sorted(COMPRESS))
@pytest.mark.parametrize("size", [2**16, 2**17, 3 * 2**20 + 5])
def test_large_bodies_come_in_steps(coding: str, size: int) -> None:
    body = random.Random(size).randbytes(size // 8).hex().encode() * 4
    assert inflated(coding, COMPRESS[coding](body)) == body
    stream = inflater(coding)
    assert stream is not None
    assert len(stream.step(COMPRESS[coding](body))) <= 2**16


@pytest.mark.parametrize("coding", sorted(COMPRESS))
@pytest.mark.parametrize("piece", [1, 2**16])
def test_what_is_not_one_whole_stream(coding: str, piece: int) -> None:
    whole = COMPRESS[coding](b"eye" * 100)
    for broken in (b"eye", whole[:-1], whole[:9], whole + b"x", whole + whole, whole[:-3] + b"\xff" + whole[-2:]):
        with pytest.raises(MalformedRequestError, match=f"not one whole {coding.lower()} stream"):
            inflated(coding, broken, piece)


@pytest.mark.parametrize("coding", sorted(COMPRESS))
def test_a_body_may_be_small_or_grow_little_but_not_both_large_and_grow_much(coding: str) -> None:
    assert inflated(coding, COMPRESS[coding](bytes(FREE_BYTES))) == bytes(FREE_BYTES)
    stream = inflater(coding)
    assert stream is not None
    bomb = COMPRESS[coding](bytes(2**26))
    given_out = len(stream.step(bomb[: 2**14]))
    with pytest.raises(BodyTooLargeError, match=f"1/{MAX_RATIO}"):  # noqa: PT012  # which step is of no matter
        while stream.pending:
            given_out += len(stream.step())
    assert given_out <= max(FREE_BYTES, MAX_RATIO * 2**14)
