"""Data sets: reading, splitting, labels, augmentation, generated eyes.

>>> from training.data import hold_out, load_crops
>>> pool, held_out = hold_out(load_crops(Path("crops.zip")).crops)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.data.datasets import Crop, Dataset, LabelledCrop, load_crops, load_mrl, load_people
    from training.data.split import Split, hold_out, split_by_subject

__all__ = [
    "Crop",
    "Dataset",
    "LabelledCrop",
    "Split",
    "hold_out",
    "load_crops",
    "load_mrl",
    "load_people",
    "split_by_subject",
]


def __getattr__(name: str) -> Any:
    # Splitting brings SciPy and scikit-learn, which take seconds and which whoever only draws eyes need not have.
    if name in ("Split", "hold_out", "split_by_subject"):
        return getattr(import_module("training.data.split"), name)
    if name in __all__:
        return getattr(import_module("training.data.datasets"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
