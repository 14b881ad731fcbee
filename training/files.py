"""Files that stages pass to one another: JSON and named arrays, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from eyestate.atomic import atomic_writer, write_atomically
from training.data.datasets import DataError


def write_json(path: Path, content: Any) -> None:
    """Write anything that JSON can hold, indented; NaN and infinity are refused with ValueError."""
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, maker: str) -> Any:
    """Read what ``write_json`` wrote.

    Raises:
        DataError: the file is missing or damaged; ``maker`` is the command that makes it.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        raise DataError(f"no readable {path}; `python -m training {maker}` makes it") from None


def write_arrays(path: Path, **arrays: npt.ArrayLike) -> None:
    """Write named arrays as a compressed ``.npz``."""
    with atomic_writer(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path, maker: str) -> dict[str, npt.NDArray[Any]]:
    """Read what ``write_arrays`` wrote, without pickle execution.

    Raises:
        DataError: the file is missing or damaged; ``maker`` is the command that makes it.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception:  # numpy meets a damaged archive with whatever it trips over
        raise DataError(f"no readable {path}; `python -m training {maker}` makes it") from None
