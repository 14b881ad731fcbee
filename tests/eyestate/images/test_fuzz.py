"""Whatever bytes stand where a header should be: pixels or an error of the project's own, in bounded time."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyestate.errors import ImageError
from eyestate.images import MAX_SIDE, MIN_SIDE, decode, header_pixels
from tests.eyestate.images.kinds import KINDS

SMALL = [file for kind in KINDS for file in kind.files if len(file) < 4_096]


@pytest.mark.fuzz
@given(
    file=st.sampled_from(SMALL),
    changes=st.lists(st.tuples(st.integers(0, 200) | st.integers(0, 4_095), st.binary(max_size=8)), max_size=6),
    cut=st.integers(0, 8) | st.integers(0, 4_095),
    tail=st.binary(max_size=40),
)
def test_headers(file: bytes, changes: list[tuple[int, bytes]], cut: int, tail: bytes) -> None:
    data = bytearray(file[: len(file) - cut])
    for place, content in changes:
        data[place : place + len(content)] = content
    damaged = bytes(data) + tail
    started = time.process_time()
    try:
        pixels = decode(damaged)
    except ImageError:
        pixels = None
    assert header_pixels(damaged) >= 0
    assert time.process_time() - started < 2  # seconds; the largest image takes a part of one
    if pixels is not None:
        assert MIN_SIDE <= min(pixels.shape) <= max(pixels.shape) <= MAX_SIDE
