from __future__ import annotations

import json
import threading
import time
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eyestate.server.openinference.numbers import cut, parse

CROPS = np.random.default_rng(2).integers(0, 256, (40, 24, 24, 3), dtype=np.uint8)


def flat(array: Any) -> bytes | None:
    """The elements of an array whose numbers are all from 0 to 255 and equally deep; None where they are not."""
    if not isinstance(array, list) or not array:
        return None
    while all(isinstance(element, list) for element in array):
        if not all(array):
            return None
        array = list(chain.from_iterable(array))
    whole = all(type(element) is int and 0 <= element <= 255 for element in array)
    return bytes(array) if whole else None


def elements_of(document: bytes) -> bytes | None:
    try:
        return parse(document)
    except ValueError:
        return None


class TestParse:
    @pytest.mark.parametrize("shape", [(40, 24, 24, 3), (40, 24, 72), (960, 72), (69_120,)])
    @pytest.mark.parametrize(
        "style", [{}, {"indent": 1}, {"separators": (",", ":")}], ids=["usual", "indented", "dense"]
    )
    def test_crops(self, shape: tuple[int, ...], style: dict[str, Any]) -> None:
        assert parse(json.dumps(CROPS.reshape(shape).tolist(), **style).encode()) == CROPS.tobytes()

    @given(st.recursive(st.integers(0, 255), lambda inner: st.lists(inner, min_size=1, max_size=4), max_leaves=20))
    def test_any_lists(self, array: Any) -> None:
        document = json.dumps(array).encode()
        if (elements := flat(array)) is None:
            assert elements_of(document) is None
        else:
            assert parse(document) == elements

    @pytest.mark.fuzz
    @settings(max_examples=10 * settings().max_examples)
    @given(
        st.lists(st.sampled_from([*"[],", "1", "20", "255", "256", "01", " ", "\n", "-", ".5", "e1", "true"])).map(
            "".join
        )
    )
    @example("[[[1],][[2]]]")
    @example("[1 [], 2]")
    @example("[1],[2]")
    def test_what_is_read_is_json(self, text: str) -> None:
        try:
            expected = flat(json.loads(text))
        except ValueError:
            expected = None
        assert elements_of(text.strip().encode()) == expected

    @pytest.mark.parametrize(
        "hole", [",,", ", ,", "," + " " * 2**17 + ",", ",null,", ',"1",', ",1.0,", ",-1,", ",256,"]
    )
    def test_a_hole_anywhere(self, hole: str) -> None:
        half = ",".join(["7"] * 2**15)
        for document in (f"[{half}{hole}{half}]", f"[{half}{hole}1]", f"[1{hole}{half}]"):
            assert elements_of(document.encode()) is None

    def test_other_threads_run_meanwhile(self) -> None:
        document = json.dumps(np.zeros(1_000_000, int).tolist()).encode()
        reader = threading.Thread(target=parse, args=[document])
        reader.start()
        turns = 0
        while reader.is_alive():
            time.sleep(0)
            turns += 1
        assert turns > 3


class TestCut:
    @pytest.mark.parametrize("data", ["[1,2,3]", "[[1, 2],\n[3]]", "[ ]", "[true]", "[1.5]", "[[],[]]"])
    def test_numbers(self, data: str) -> None:
        document = '{"inputs": [{"name": "crops", "data" : DATA, "shape": [1, 8, 8]}, {"data":DATA}]}'
        kept, arrays = cut(document.replace("DATA", data).encode())
        assert kept == b'{"inputs": [{"name": "crops", "data" : [0], "shape": [1, 8, 8]}, {"data":[1]}]}'
        assert arrays == [data.encode()] * 2

    @pytest.mark.parametrize(
        "document",
        [
            b'{"data": ["eA=="]}',
            b'{"data": [[1], ["eA=="]]}',
            b'{"data": [{"a": 1}]}',
            b'{"data": [[1], {"a": 2}]}',
            b'{"data": [',
            b'{"data": [1',
            b'{"data": null}',
            b'{"text": "\\"data\\": [1]"}',
            b'["data", [1]]',
            b"",
        ],
    )
    def test_all_else_stays(self, document: bytes) -> None:
        assert cut(document) == (document, [])

    @pytest.mark.parametrize("piece", [b'"data":[],', b'"data":[', b'"data":["",'])
    def test_takes_a_few_at_most(self, piece: bytes) -> None:
        document = b"{" + piece * 100_000
        started = time.thread_time()
        _, arrays = cut(document)
        assert len(arrays) <= 16
        assert time.thread_time() - started < 1
