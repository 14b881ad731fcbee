from __future__ import annotations

import time
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyestate.errors import BodyTooLargeError, InferenceRequestError
from eyestate.server.openinference import wire
from eyestate.server.openinference.messages import message

REQUEST = message("ModelInferRequest")
CONTENTS = message("InferTensorContents")


@pytest.fixture(autouse=True)
def count_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SMALL_BYTES", 0)


class TestRead:
    @pytest.mark.parametrize("images", [0, 1, 16_384])
    def test_a_message(self, images: int) -> None:
        asked = REQUEST(model_name="m", id="ü", raw_input_contents=[b"\xff" * 300])
        asked.parameters["scale"].double_param = 0.5
        tensor = asked.inputs.add(name="images", datatype="BYTES", shape=[images, 24])
        tensor.contents.bytes_contents.extend([b"x"] * images)
        assert wire.read(REQUEST, asked.SerializeToString()) == asked

    @given(st.binary() | st.lists(st.sampled_from([b"\x2a\x06", b"\x3a", b"\x0b", b"\xff", b"\0"])).map(b"".join))
    def test_any_bytes_are_a_message_or_refused(self, data: bytes) -> None:
        with suppress(InferenceRequestError):
            wire.read(REQUEST, data)

    @pytest.mark.parametrize(
        "data",
        [
            b"\x3a\x00" * 30_000_000,
            REQUEST(outputs=[{}] * 20_000).SerializeToString(),
            REQUEST(inputs=[{"contents": {"bytes_contents": [b""] * 20_000}}]).SerializeToString(),
            REQUEST(inputs=[{"contents": {"uint_contents": bytes(5_000_000)}}]).SerializeToString(),
            REQUEST(inputs=[{"shape": bytes(5_000_000)}]).SerializeToString(),
            b"\xa2\x7d\x00" * 20_000,  # fields that no message has
        ],
        ids=["raw", "outputs", "images", "numbers", "shape", "unknown"],
    )
    def test_more_than_any_request_needs_is_not_parsed(self, data: bytes) -> None:
        started = time.perf_counter()
        with pytest.raises(BodyTooLargeError, match="the message has more than"):
            wire.read(REQUEST, data)
        assert time.perf_counter() - started < 1


class TestOctets:
    @given(st.binary(min_size=1))
    def test_numbers_are_bytes(self, values: bytes) -> None:
        assert wire.octets(CONTENTS(uint_contents=values)) == values

    @given(st.binary(), st.integers(256, 2**32 - 1), st.binary())
    def test_larger_ones_are_refused(self, before: bytes, number: int, behind: bytes) -> None:
        with pytest.raises(InferenceRequestError, match="whole numbers from 0 to 255"):
            wire.octets(CONTENTS(uint_contents=[*before, number, *behind]))

    @pytest.mark.parametrize("contents", [CONTENTS(), CONTENTS(uint_contents=[1], fp32_contents=[1])])
    def test_other_contents_are_refused(self, contents: object) -> None:
        with pytest.raises(InferenceRequestError, match="in uint_contents, or raw"):
            wire.octets(contents)

    def test_many_take_no_time(self) -> None:
        values = np.random.default_rng(0).integers(0, 256, 2_000_000, np.uint8)
        contents = CONTENTS(uint_contents=values)
        started = time.perf_counter()
        assert wire.octets(contents) == values.tobytes()
        assert time.perf_counter() - started < 0.5
