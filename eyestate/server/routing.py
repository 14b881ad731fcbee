"""One table of routes: which endpoint answers a request, and in which form an error is reported."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Scope

from eyestate.errors import EyestateError, MethodNotAllowedError, NotFoundError

Endpoint = Callable[[Request], Awaitable[Response]]
ErrorForm = Callable[[EyestateError], Response]

UNKNOWN: Final = "other"  # the route of any path that is not in the table, in metrics and logs


@dataclass(frozen=True, slots=True)
class Route:
    """A path, which may have parameters such as ``{name}``, and what answers it."""

    path: str
    endpoint: Endpoint
    method: str = "GET"
    operational: bool = False  # answered without an API key, and while the service shuts down

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that are accepted."""
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)


@dataclass(frozen=True, slots=True)
class Api:
    """Routes below one prefix that report errors in the same form.

    Attributes:
        prefix: paths that begin with it belong to this API, whether it knows them or not.
        routes: what it knows.
        error_form: turns an error into a response.
        hint: where the API is described, for the error about an unknown path.
    """

    prefix: str
    routes: Sequence[Route]
    error_form: ErrorForm
    hint: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: the endpoint, the name of its route in metrics and logs, the form of an error."""

    endpoint: Endpoint
    route: str
    error_form: ErrorForm
    operational: bool = False


@dataclass(frozen=True, slots=True)
class _Entry:
    methods: tuple[str, ...]
    target: Target
    wrong_method: Target


class RoutingTable:
    """Finds the target of a request: fixed paths by one dictionary lookup, then those with parameters."""

    def __init__(self, *apis: Api) -> None:
        """Args:
        apis: in the order in which their prefixes are tried.
        """
        self._fixed: dict[str, _Entry] = {}
        self._patterns: list[tuple[re.Pattern[str], _Entry]] = []
        self._unknown = [(api.prefix, _unknown(api)) for api in apis]
        for api in apis:
            for route in api.routes:
                if "{" in route.path:
                    self._patterns.append((compile_path(route.path)[0], _entry(route, api)))
                else:
                    self._fixed[route.path] = _entry(route, api)

    def find(self, scope: Scope) -> Target | None:
        """The target of a request; None where its path belongs to no API."""
        path = scope["path"]
        entry = self._fixed.get(path) or self._match(path, scope)
        if entry is not None:
            return entry.target if scope["method"] in entry.methods else entry.wrong_method
        return next((target for prefix, target in self._unknown if path.startswith(prefix)), None)

    def _match(self, path: str, scope: Scope) -> _Entry | None:
        if not path.isprintable():  # also for the pattern's end, which would match before a line feed
            return None
        for pattern, entry in self._patterns:
            if match := pattern.match(path):
                scope["path_params"] = match.groupdict()
                return entry
        return None


def _entry(route: Route, api: Api) -> _Entry:
    async def refuse(request: Request) -> Response:
        error = MethodNotAllowedError(f"{request.scope['path']} takes {route.method}, not {request.method}")
        response = api.error_form(error)
        response.headers["Allow"] = ", ".join(route.methods)
        return response

    return _Entry(
        route.methods,
        Target(route.endpoint, route.path, api.error_form, route.operational),
        Target(refuse, route.path, api.error_form, operational=True),
    )


def _unknown(api: Api) -> Target:
    async def refuse(request: Request) -> Response:
        raise NotFoundError(f"there is no {request.scope['path']}; {api.hint}")

    return Target(refuse, UNKNOWN, api.error_form)
