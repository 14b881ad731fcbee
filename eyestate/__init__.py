"""Open/closed-eye scoring.

>>> import eyestate
>>> scorer = eyestate.load()
>>> scores = scorer.score(["left.jpg", "right.jpg"])  # P(open), 0 to 1
"""

__version__ = "0.1.0"

from eyestate.errors import EyestateError
from eyestate.scorer import Scorer, load

__all__ = ["EyestateError", "Scorer", "__version__", "load"]
