"""Cross-origin resource sharing: which other sites' pages may use the service from a browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from eyestate.server.openinference.tensors import JSON_LENGTH

_EXPOSED: Final = ("X-Request-ID", "Retry-After", JSON_LENGTH)


def shared(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application, whose responses, errors among them, pages of these origins may read; ``*`` stands for all.

    Preflights are answered before the application: they have no API key. Cookies are not allowed: there are none.
    """
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=("*",),
        allow_private_network=True,  # pages of the internet that are allowed may use a service that is not part of it
        expose_headers=_EXPOSED,
    )
