"""The edge of the service: what every request passes, whatever it asks for.

Identity, API keys, deadline, refusal while the service stops, errors, metrics, logs and traces are one ASGI application
here rather than a stack of middleware, because at several thousand requests a second each layer costs a tenth of the
throughput (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import getrandbits
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyestate.errors import (
    DeadlineExceededError,
    DrainingError,
    EyestateError,
    OverloadedError,
    RequestTimeoutError,
    UnauthorizedError,
)
from eyestate.server import metrics
from eyestate.server.auth import ApiKeys
from eyestate.server.tracing import Tracing
from eyestate.server.uploads import BODIES, BODY_READ

log = logging.getLogger("eyestate.requests")

Endpoint = Callable[[Request], Awaitable[Response]]

MAX_ACTIVE: Final = 1_024  # requests on their way; to take more would only make all of them late
CLIENT_CLOSED_REQUEST: Final = 499  # nginx's status for a client that left before its answer
_SWEEP_SECONDS: Final = 0.25
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_DRAIN_RETRY_SECONDS: Final = 1


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: the endpoint, its name in metrics and logs, and how it tells an error."""

    endpoint: Endpoint
    route: str
    refusal: Callable[[EyestateError], Response]
    operational: bool = False  # answered without a key, and while the service stops


@dataclass(slots=True, eq=False)
class _Exchange:
    """A request on its way."""

    scope: Scope
    receive: Receive
    task: asyncio.Task[Any]
    started: float
    late: bool = False
    left: bool = False
    watch: asyncio.Future[Message] | None = None

    def give_up(self, *, late: bool) -> None:
        """Interrupt the request because it is too late, or because its client has left."""
        self.late, self.left = late, not late
        self.task.cancel()

    def watch_client(self) -> None:
        """Give up when the client leaves. Only once the body is read, for ``receive`` then tells nothing else."""
        self.watch = asyncio.ensure_future(self.receive())
        self.watch.add_done_callback(self._left)

    def _left(self, watch: asyncio.Future[Message]) -> None:
        if not watch.cancelled():
            self.give_up(late=False)

    def unwatch(self) -> None:
        """Stop looking out for the client."""
        if self.watch is not None:
            self.watch.cancel()


class Edge:
    """The ASGI application in front of all others."""

    def __init__(
        self, find: Callable[[Scope], Target | None], otherwise: ASGIApp, *, timeout: float, keys: ApiKeys | None
    ) -> None:
        """Args:
        find: the target of a request; None leaves it to ``otherwise``.
        otherwise: takes what has no target, lifespan events among it.
        timeout: seconds until a request is given up.
        keys: who may ask; everybody where it is None.
        """
        self._find = find
        self._otherwise = otherwise
        self._timeout = timeout
        self._keys = keys
        self._active: dict[_Exchange, None] = {}
        self._overloaded = 0  # requests refused since they were last logged, together, for one by one is too much work
        self.tracing: Tracing | None = None
        self.draining = False  # /readyz says so, requests are still taken
        self.refusing = False  # requests are refused

    @property
    def active(self) -> int:
        """Requests on their way."""
        return len(self._active)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = self._find(scope) if scope["type"] == "http" else None
        if target is None:
            await self._otherwise(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None
        exchange = _Exchange(scope, receive, task, time.perf_counter())
        self._active[exchange] = None
        request_id, key = self._identity(scope)
        span = self.tracing.begin(scope, target.route, request_id.decode()) if self.tracing else None
        status = CLIENT_CLOSED_REQUEST
        try:
            response = await self._answer(target, exchange, key)
            status = response.status_code
            response.raw_headers.append((b"x-request-id", request_id))
            if self.draining:
                response.raw_headers.append((b"connection", b"close"))
            await response(scope, receive, send)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            if not (exchange.left or exchange.late):
                raise
            task.uncancel()  # the client left while its crops waited, or does not take its answer
        finally:
            del self._active[exchange]
            BODIES.release(scope)
            seconds = time.perf_counter() - exchange.started
            metrics.request_done(target.route, status, seconds)
            if span and self.tracing:
                self.tracing.end(span, status)
            if status == OverloadedError.status:
                self._overloaded += 1
            elif status >= 400 or log.isEnabledFor(logging.DEBUG):
                self._log(target.route, status, seconds, request_id, scope)

    async def _answer(self, target: Target, exchange: _Exchange, key: str | None) -> Response:
        try:
            if not target.operational:
                if len(self._active) > MAX_ACTIVE:
                    raise OverloadedError(f"{MAX_ACTIVE:,} requests are on their way already; try again in 1 s", 1)
                if self.refusing:
                    raise DrainingError("the service is stopping; send the request again, to another instance")
                if self._keys and not self._keys.accept(key):
                    raise UnauthorizedError(
                        "the API key is missing or not known; send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
                    )
            return await target.endpoint(Request(exchange.scope, exchange.receive))
        except EyestateError as error:
            return _refused(target, error)
        except asyncio.CancelledError:
            if not exchange.late:
                raise
            exchange.task.uncancel()
            if BODY_READ in exchange.scope:
                return _refused(target, DeadlineExceededError(f"there was no answer within {self._timeout:g} s"))
            return _refused(target, RequestTimeoutError(f"the body was not complete within {self._timeout:g} s"))
        except ClientDisconnect:
            raise
        except Exception:
            log.exception("the request failed", extra={"route": target.route})
            return _refused(target, EyestateError("the service failed on this request; its log says why"))
        finally:
            exchange.unwatch()

    async def sweep(self) -> None:
        """Give up requests that are too late or whose client has left. Runs until cancelled.

        One task looks after all requests a few times a second, so that those that are answered sooner cost nothing.
        """
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self._log_overload()
            now = time.perf_counter()
            for exchange in list(self._active):
                age = now - exchange.started
                if age < _SWEEP_SECONDS:
                    break  # the others are younger still
                if age > self._timeout and not exchange.late:
                    exchange.give_up(late=True)
                elif BODY_READ in exchange.scope and exchange.watch is None:
                    exchange.watch_client()

    def _identity(self, scope: Scope) -> tuple[bytes, str | None]:
        """The request's id, the caller's own where it sent a proper one, and its API key."""
        request_id, key = b"", None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = value if _REQUEST_ID.fullmatch(value) else b""
            elif name == b"x-api-key":
                key = value.decode("latin-1")
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                key = value[7:].strip().decode("latin-1")
        return request_id or b"%016x" % getrandbits(64), key

    def _log_overload(self) -> None:
        if self._overloaded:
            log.warning("overloaded", extra={"refused": self._overloaded, "active": self.active})
            self._overloaded = 0

    def _log(self, route: str, status: int, seconds: float, request_id: bytes, scope: Scope) -> None:
        level = logging.ERROR if status in (500, 504) else logging.INFO if status >= 400 else logging.DEBUG
        client = scope.get("client")
        log.log(
            level,
            "%s %s %d",
            scope["method"],
            route,
            status,
            extra={
                "route": route,
                "status": status,
                "seconds": round(seconds, 6),
                "request_id": request_id.decode(),
                "client": client[0] if client else None,
            },
        )


def _refused(target: Target, error: EyestateError) -> Response:
    metrics.rejected(error.code)
    response = target.refusal(error)
    if isinstance(error, OverloadedError):
        response.headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, DrainingError):
        response.headers["Retry-After"] = str(_DRAIN_RETRY_SECONDS)
    elif isinstance(error, UnauthorizedError):
        response.headers["WWW-Authenticate"] = "Bearer"
    elif isinstance(error, RequestTimeoutError):
        response.headers["Connection"] = "close"
    return response
