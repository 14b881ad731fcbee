"""Open/closed-eye scoring.

>>> import eyestate
>>> scorer = eyestate.load()
>>> scores = scorer.score(["left.jpg", "right.jpg"])  # P(open), 0 to 1
"""

from eyestate.errors import EyestateError
from eyestate.scorer import Scorer, load

__all__ = ["EyestateError", "Scorer", "load"]
