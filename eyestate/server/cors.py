"""Cross-origin resource sharing: which other sites' pages may use the service from a browser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from eyestate.server.openinference.tensors import JSON_LENGTH
from eyestate.server.responses import error_response
from eyestate.server.routing import Target

PREFLIGHT: Final = "preflight"  # the route of preflights, in metrics and logs
_EXPOSED: Final = ("X-Request-ID", "Retry-After", JSON_LENGTH)


class Sharing(CORSMiddleware):
    """An application whose responses, errors among them, pages of some origins may read.

    Preflights are left to the application, which finds what answers them here, so that they pass its edge too.
    Cookies are not allowed: there are none.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        """Args:
        app: the application.
        origins: whose pages may use it; ``*`` stands for all.
        """
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            allow_private_network=True,  # pages of the internet that are allowed may use a service not part of it
            expose_headers=_EXPOSED,
        )
        self._preflight = Target(self._answer, PREFLIGHT, error_response, operational=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, and mark what comes back unless it answers a preflight, which is marked already."""
        if scope["type"] != "http" or self.preflight(scope):
            await self.app(scope, receive, send)
        else:
            await self.simple_response(scope, receive, send, request_headers=Headers(scope=scope))

    def preflight(self, scope: Scope) -> Target | None:
        """What answers a preflight, which has no API key; None if the request is none."""
        if scope["method"] != "OPTIONS":
            return None
        headers = Headers(scope=scope)
        return self._preflight if "origin" in headers and "access-control-request-method" in headers else None

    async def _answer(self, request: Request) -> Response:
        return self.preflight_response(request.headers)
