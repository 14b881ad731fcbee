"""What ``bentoml serve service`` and a bento serve."""

from eyestate.server.service import EyeState

__all__ = ["EyeState"]
