"""Open/closed-eye scoring.

>>> import eyestate
>>> scorer = eyestate.load()
>>> scores = scorer.score(["left.jpg", "right.jpg"])  # P(open), 0 to 1
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eyestate.errors import EyestateError

if TYPE_CHECKING:
    from eyestate.scorer import Scorer, load

__version__ = "0.2.0"

__all__ = ["EyestateError", "Scorer", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # The scorer brings ONNX Runtime, which a caller of `eyestate.client` need not have.
    if name in ("Scorer", "load"):
        return getattr(import_module("eyestate.scorer"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
