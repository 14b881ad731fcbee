"""What a stream asks for."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyestate.errors import RequestError
from eyestate.server.streams import Options, options


def test_options() -> None:
    assert options(b"") == Options("face", "left", newest=False)
    assert options(b"mode=crop&eye=right&newest=TRUE&other=1") == Options("crop", "right", newest=True)


@pytest.mark.parametrize("query", [b"mode=photo", b"mode=", b"newest=1", b"eye=both", b"x" * 3_000])
def test_other_values(query: bytes) -> None:
    with pytest.raises(RequestError):
        options(query)


@given(st.binary(max_size=200))
def test_any_query(query: bytes) -> None:
    with suppress(RequestError):
        options(query)
