"""The numbers of tensors in JSON, read in pieces.

A JSON parser makes a Python object of every number and every list, and nothing else runs in the process until it has
parsed all of a request: at worst a second. So the numbers of tensors are cut out of the JSON before it is parsed, and
parsed in pieces, between which other threads run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import numpy as np
from pydantic_core import from_json

_KEY: Final = re.compile(rb'"data"\s*:\s*(?=\[)')
_MAX_KEYS: Final = 16  # that are looked at; a request has two tensors
_PIECE_BYTES: Final = 64 * 2**10  # parsed in 1 ms
_WHITE: Final = b" \t\r\n"
_NO_JSON: Final = (b"[]", b"][", b"[,", b",]")
_SPACES: Final = bytes.maketrans(b"[]", b"  ")


def cut(document: bytes) -> tuple[bytes, list[bytes]]:
    """Cut the arrays of numbers with the key ``data`` out of JSON.

    Returns:
        The document, in which ``[k]`` stands for the k-th array that was cut out, and these. No array of a valid
        request has a single number.
    """
    kept: list[bytes] = []
    arrays: list[bytes] = []
    start = 0
    for _ in range(_MAX_KEYS):
        key = _KEY.search(document, start)
        if key is None:
            break
        kept.append(document[start : key.end()])
        # What follows the numbers: the next member, or the end of the tensor.
        behind = [place for mark in (b'"', b"}") if (place := document.find(mark, key.end())) >= 0]
        start = document.rfind(b"]", key.end(), min(behind, default=len(document))) + 1
        array = document[key.end() : start]
        if array and array.count(b"[") == array.count(b"]"):
            kept.append(b"[%d]" % len(arrays))
            arrays.append(array)
        else:  # strings or objects, which are left where they are
            start = key.end()
    kept.append(document[start:])
    return b"".join(kept), arrays


def parse(array: bytes) -> bytes:
    """The elements of a JSON array of whole numbers from 0 to 255, flat or nested.

    Raises:
        ValueError: it is no such array.
    """
    numbers = bytearray()
    depth = depth_of_numbers = closed = 0
    for piece in _pieces(array):
        if piece.translate(None, b"0123456789,[]" + _WHITE):
            raise ValueError("not an array of whole numbers: letters or signs")
        dense = b",%b," % piece.translate(None, _WHITE)
        if any(pair in dense for pair in _NO_JSON):
            raise ValueError("a bracket where a number or a comma should be")
        values = from_json(b"[%b]" % piece.translate(_SPACES))
        if not values:
            raise ValueError("no number between commas")
        numbers += bytes(values)
        characters = np.frombuffer(piece, np.uint8)
        steps = (characters == ord("[")).astype(np.int8) - (characters == ord("]"))
        depths = depth + np.cumsum(steps, dtype=np.int32)
        at_numbers = depths[(characters >= ord("0")) & (characters <= ord("9"))]
        depth = int(depths[-1])
        depth_of_numbers = depth_of_numbers or int(at_numbers[0])
        closed += int(np.count_nonzero(depths <= 0))
        if (at_numbers != depth_of_numbers).any():
            raise ValueError("lists of different depth")
    if closed != 1 or depth != 0 or depth_of_numbers == 0:
        raise ValueError("not one list")
    return bytes(numbers)


def _pieces(array: bytes) -> Iterator[bytes]:
    """The array, split at commas."""
    start = 0
    while (comma := array.find(b",", start + _PIECE_BYTES)) >= 0:
        yield array[start:comma]
        start = comma + 1
    yield array[start:]
