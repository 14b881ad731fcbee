"""Dependencies that only some users need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from eyestate.errors import MissingExtraError


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Imports of the packages that the extra ``name`` brings.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        raise MissingExtraError(
            f"{package} is not installed; install it with: pip install 'eyestate[{name}]'"
        ) from None
