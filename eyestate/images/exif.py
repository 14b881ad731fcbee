"""The EXIF orientation: the only metadata that changes what is seen."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import numpy as np

from eyestate.arrays import Pixels

_ORIENTATION: Final = 0x0112
_SHORT: Final = 3
# Exif 2.32, tag 274: what turns the stored pixels, (height, width) or (height, width, 3), upright.
_UPRIGHT: Final[dict[int, Callable[[Pixels], Pixels]]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def orientation(exif: bytes) -> int:
    """The orientation in the first directory of an EXIF block, with or without its prefix, ``Exif``, 0 and any byte.

    As in browsers, it counts only where it is one number of 16 bits. Everything else, and a broken block, is 1
    (upright): the pixels are fine.
    """
    block = exif[6:] if exif.startswith(b"Exif\0") else exif
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, values, value = struct.unpack_from(f"{order}HHIH", block, place)
            if (tag, kind, values) == (_ORIENTATION, _SHORT, 1):
                return int(value) if value in _UPRIGHT else 1
    except struct.error:
        return 1
    return 1


def upright(pixels: Pixels, value: int) -> Pixels:
    """Stored pixels, turned as an EXIF orientation says."""
    turn = _UPRIGHT.get(value)
    return np.ascontiguousarray(turn(pixels)) if turn else pixels
