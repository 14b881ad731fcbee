"""The edge of the service: what every request passes through, whatever its route.

Request ids, API keys, deadlines, rejection while the service shuts down, errors, metrics, logs and traces are one ASGI
application rather than a stack of middleware, because at several thousand requests a second each layer costs a tenth
of the throughput (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from random import getrandbits
from typing import Any, Final, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eyestate.errors import (
    DeadlineExceededError,
    DrainingError,
    EyestateError,
    OverloadedError,
    QuotaExceededError,
    RequestTimeoutError,
    UnauthorizedError,
    UnsupportedCodingError,
    UpgradeRequiredError,
)
from eyestate.server import codings, metrics
from eyestate.server.admission import MIN_BYTES_PER_SECOND, Places, Upload, slowest
from eyestate.server.auth import RIGHTS, ApiKeys, Rights
from eyestate.server.routing import ErrorForm, Target
from eyestate.server.sending import head_bytes, send_response
from eyestate.server.tracing import Tracing
from eyestate.server.uploads import BODY_BUDGET, UPLOAD, BodyBudget

log = logging.getLogger("eyestate.requests")

AWAITED: Final = "eyestate.awaited"  # in a request's scope: since when its body has been, if it begins later than that
CLIENT_CLOSED_REQUEST: Final = 499  # nginx's status for a client that left before its response
_CHECK_SECONDS: Final = 0.25
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_DRAIN_RETRY_SECONDS: Final = 1


class ActiveRequest(Protocol):
    """A request in flight, as ``Edge`` sees it.

    Attributes:
        scope: of the request.
        upload: its body.
        ended: whether it was cancelled.
    """

    scope: Scope
    upload: Upload
    ended: bool

    def cancel(self, error: EyestateError | None) -> None:
        """Interrupt the request, which is answered with the error; None: its client has disconnected."""

    def watch_client(self) -> None:
        """Cancel the request when the client disconnects, from now on. Called once the body is here, perhaps often."""


@dataclass(slots=True, eq=False)
class _TaskRequest:
    """A request that a task works for."""

    scope: Scope
    receive: Receive
    task: asyncio.Task[Any]
    upload: Upload
    ended: bool = False  # before its answer
    error: EyestateError | None = None  # to answer then
    watch: asyncio.Future[Message] | None = None

    def cancel(self, error: EyestateError | None) -> None:
        self.error, self.ended = error, True
        self.task.cancel()

    def watch_client(self) -> None:  # only once the body is read does ``receive`` have no other news
        if self.watch is None:
            self.watch = asyncio.ensure_future(self.receive())
            self.watch.add_done_callback(self._on_disconnect)

    def _on_disconnect(self, watch: asyncio.Future[Message]) -> None:
        if not watch.cancelled():
            self.cancel(None)

    def unwatch(self) -> None:
        """Stop watching the client."""
        if self.watch is not None:
            self.watch.cancel()


class Edge:
    """The ASGI application in front of all others."""

    def __init__(
        self, find: Callable[[Scope], Target | None], fallback: ASGIApp, *, timeout: float, keys: ApiKeys | None
    ) -> None:
        """Args:
        find: the target of a request; None leaves it to ``fallback``.
        fallback: takes what has no target, lifespan events among it.
        timeout: seconds until a request is cancelled.
        keys: the API keys that are accepted; None accepts everybody.
        """
        self._find = find
        self._fallback = fallback
        self._timeout = timeout
        self.keys = keys
        self._active: dict[ActiveRequest, None] = {}
        self._places = Places()
        self.expect, self.full = self._places.expect, self._places.full
        self._bodies = BodyBudget(make_room=self.end_slowest_upload)
        self._refused: Counter[str] = Counter()  # with 429 since the last log lines: one counts many, to save work
        self.tracing: Tracing | None = None
        self.draining = False  # /readyz reports it, requests are still served
        self.rejecting = False  # new requests are rejected

    @property
    def active(self) -> int:
        """Requests in flight."""
        return len(self._active)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = self._find(scope) if scope["type"] == "http" else None
        if target is None:
            await self._fallback(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None
        upload = _upload(scope, None if target.operational else self._places)
        request = _TaskRequest(scope, receive, task, upload)
        self._active[request] = None
        scope[BODY_BUDGET], scope[UPLOAD] = self._bodies, upload
        request_id, key = identity(dict(scope["headers"]))
        span = self.tracing.begin(scope, target.route, request_id.decode()) if self.tracing else None
        status = CLIENT_CLOSED_REQUEST
        try:
            response = await self._respond(target, request, key)
            status = response.status_code
            response.raw_headers.append((b"x-request-id", request_id))
            if self.draining:
                response.raw_headers.append((b"connection", b"close"))
            await send_response(response, scope, receive, send)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            if not request.ended:
                raise
            task.uncancel()  # the client left while its crops waited, or does not read its response
        finally:
            received, seconds = self.leave(request, target, status, request_id)
            if span and self.tracing:
                self.tracing.end(span, status, received, seconds)

    async def _respond(self, target: Target, request: _TaskRequest, key: bytes) -> Response:
        try:
            if not target.operational:
                request.scope[RIGHTS] = self._admit(request.upload.client, key)
            return await target.endpoint(Request(request.scope, request.receive))
        except asyncio.CancelledError:
            if request.error is None:
                raise
            request.task.uncancel()
            return self.failed(target, request.error)
        except ClientDisconnect:
            raise
        except Exception as error:
            return self.failed(target, error)
        finally:
            request.unwatch()

    def enter(self, request: ActiveRequest, key: bytes) -> None:
        """Begin a request that needs no task, and gets its ``upload`` here; that takes a place when it has arrived.

        Raises:
            RequestError: it is not let in, and its answer says why.
        """
        request.upload = _upload(request.scope, self._places)
        self._active[request] = None
        request.scope[RIGHTS] = self._authorize(key)

    def forget(self, request: ActiveRequest) -> None:
        """Give back what a request has taken."""
        del self._active[request]
        self._bodies.release(request.scope)
        self._places.leave(request.upload)

    def leave(self, request: ActiveRequest, target: Target, status: int, request_id: bytes) -> tuple[float, float]:
        """Forget, count and log a request that has ended; the seconds that it took, as of ``Upload.seconds``."""
        self.forget(request)
        seconds = request.upload.seconds()
        metrics.request_done(target.route, status, *seconds)
        if status != OverloadedError.status and (status >= 400 or log.isEnabledFor(logging.DEBUG)):
            self._log(target.route, status, seconds, request_id, request.scope)
        return seconds

    def failed(self, target: Target, error: Exception) -> Response:
        """The answer for an error, which is counted; one that is not the client's is logged, and not told."""
        if not isinstance(error, EyestateError):
            log.error("the request failed", extra={"route": target.route}, exc_info=error)
            error = EyestateError("the service failed on this request; its log says why")
        if isinstance(error, OverloadedError):
            self._refused[error.code] += 1
        if isinstance(error, QuotaExceededError):
            metrics.over_quota(target.route)
        metrics.rejected(error.code)
        return _formed(target.error_form, error)

    def refusal(self, scope: Scope, why: str) -> bytes | None:
        """The answer to a request without a place, of which nothing but the head has been looked at.

        The same as if the request had begun, in a third of the time.

        Args:
            scope: with its path, method and headers.
            why: from ``expect``.

        Returns:
            All of the answer; None where the request has to be handled like any other.
        """
        target = self._find(scope)
        if target is None or target.operational or self.draining or self.tracing:
            return None
        self._refused[OverloadedError.code] += 1
        metrics.rejected(OverloadedError.code)
        metrics.request_done(target.route, OverloadedError.status, 0.0, 0.0)
        head, body = _refusal(target.error_form, why)
        return b"%bx-request-id: %b\r\n\r\n%b" % (head, identity(dict(scope["headers"]))[0], body)

    @contextmanager
    def admitted(self, client: str, key: bytes, size: int = 0) -> Iterator[Scope]:
        """Work for a request that came over another protocol than HTTP, all of it, with the rights and limits of HTTP.

        Gives the scope to work in.

        Args:
            client: the address that it comes from.
            key: its API key.
            size: its bytes.

        Raises:
            RequestError: it is not let in.
        """
        upload = Upload(client, self._places)
        budgeted: Scope = {RIGHTS: self._admit(client, key)}
        try:
            self._bodies.take(budgeted, size)
            upload.expect()
            upload.arrived(size, complete=True)
            yield budgeted
        finally:
            self._bodies.release(budgeted)
            self._places.leave(upload)

    def _admit(self, client: str, key: bytes) -> Rights | None:
        self._places.check(client)
        return self._authorize(key)

    def _authorize(self, key: bytes) -> Rights | None:
        if self.rejecting:
            raise DrainingError("the service is stopping; send the request again, to another instance")
        if self.keys:
            rights = self.keys.accept(key)
            if rights is None:
                raise UnauthorizedError(
                    "the API key is missing or not known; send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
                )
            return rights
        return None

    async def enforce_deadlines(self) -> None:
        """Cancel requests whose deadline has passed or whose client has disconnected. Runs until cancelled.

        One task checks all requests a few times a second, so that those answered sooner cost nothing.
        """
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            self._log_overload()
            now = time.perf_counter()
            for request in list(self._active):
                age = now - request.upload.begun
                if age < _CHECK_SECONDS:
                    break  # the others are younger still
                if request.ended:
                    continue
                if error := self._overdue(request, now):
                    request.cancel(error)
                elif request.upload.complete:
                    request.watch_client()

    def _overdue(self, request: ActiveRequest, now: float) -> EyestateError | None:
        late = now - request.upload.begun > self._timeout
        if request.upload.due == math.inf:  # nothing is expected of the client
            return DeadlineExceededError(f"there was no answer within {self._timeout:g} s") if late else None
        if late:
            return RequestTimeoutError(f"the body was not complete within {self._timeout:g} s")
        if now > request.upload.due:
            return RequestTimeoutError(f"the body came at less than {MIN_BYTES_PER_SECOND} bytes a second")
        return None

    def end_slowest_upload(self) -> bool:
        """Make room for others: end the request whose body is furthest behind, if one hardly comes; whether one did."""
        uploading = {request.upload: request for request in self._active if not request.ended}
        upload = slowest(list(uploading))
        if upload is None:
            return False
        request = uploading[upload]
        request.cancel(RequestTimeoutError("the body stood still while other requests needed its room"))
        self._bodies.release(request.scope)
        return True

    def _log_overload(self) -> None:
        for code, requests in self._refused.items():
            log.warning("%s", code, extra={"refused": requests, "active": self.active})
        self._refused.clear()

    def _log(self, route: str, status: int, seconds: tuple[float, float], request_id: bytes, scope: Scope) -> None:
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
                "receive_seconds": round(seconds[0], 6),
                "seconds": round(seconds[1], 6),
                "request_id": request_id.decode(),
                "client": client[0] if client else None,
            },
        )


def _upload(scope: Scope, places: Places | None) -> Upload:
    client = scope.get("client")
    upload = Upload(client[0] if client else "", places)
    upload.begun = scope.get(AWAITED, upload.begun)
    return upload


def identity(headers: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """A request's id, the caller's own where it is valid, and its API key."""
    request_id, authorization = headers.get(b"x-request-id"), headers.get(b"authorization")
    if request_id is None or not _REQUEST_ID.fullmatch(request_id):
        request_id = b"%016x" % getrandbits(64)
    if authorization and authorization[:7].lower() == b"bearer ":
        return request_id, authorization[7:].strip()
    return request_id, headers.get(b"x-api-key", b"")


@lru_cache(maxsize=16)
def _refusal(error_form: ErrorForm, why: str) -> tuple[bytes, bytes]:
    """The head of a refusal but for its end, and its body."""
    response = _formed(error_form, OverloadedError(why, 1))
    return head_bytes(response.status_code, response.raw_headers), bytes(response.body)


def _formed(error_form: ErrorForm, error: EyestateError) -> Response:
    response = error_form(error)
    if isinstance(error, OverloadedError):
        response.headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, DrainingError):
        response.headers["Retry-After"] = str(_DRAIN_RETRY_SECONDS)
    elif isinstance(error, UnsupportedCodingError):
        response.headers["Accept-Encoding"] = codings.ACCEPTED
    elif isinstance(error, UnauthorizedError):
        response.headers["WWW-Authenticate"] = "Bearer"
    elif isinstance(error, RequestTimeoutError):
        response.headers["Connection"] = "close"
    elif isinstance(error, UpgradeRequiredError):
        response.headers["Upgrade"] = "websocket"
        response.headers["Connection"] = "Upgrade"
    return response
