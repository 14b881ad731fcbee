"""Plain requests for the score of one small crop, answered without a task and the coroutines of all others.

Such requests are nearly all that a busy service gets, and two thirds of the event loop's work for one went into what
lets a request wait for its body, a thread or a queue. Here nothing waits: the whole request has arrived, its crop is
decoded at once, and the batcher calls back. Limits, answers, metrics and logs are those of the other requests. Their
bodies, of ``MAX_BYTES`` at most, do not count against the budget for all bodies: there are places for few enough.
"""

from __future__ import annotations

import asyncio
from asyncio import Transport
from functools import partial
from typing import Final, Protocol

from starlette.responses import Response
from starlette.types import Scope
from uvicorn.server import ServerState

from eyestate.arrays import Pixels, Scores
from eyestate.errors import DeviceError, EyestateError
from eyestate.server import processes
from eyestate.server.admission import Upload
from eyestate.server.batching import Submission
from eyestate.server.edge import CLIENT_CLOSED_REQUEST, Edge, identity
from eyestate.server.routing import Target
from eyestate.server.runtime import INLINE_BYTES, Runtime, quota_of
from eyestate.server.sending import whole
from eyestate.server.uploads import is_image

PATH: Final = b"/v1/score"
MAX_BYTES: Final = INLINE_BYTES  # of a body


class FastPath:
    """Answers plain requests.

    Attributes:
        edge: that all requests pass through.
        target: where they would go otherwise.
        runtime: that scores from now on.
    """

    runtime: Runtime

    def __init__(self, edge: Edge, target: Target) -> None:
        self.edge = edge
        self.target = target

    def begin(self, request: DirectRequest, body: bytes) -> bool:
        """Answer a request, now or later; False if it has to be handled like any other.

        Args:
            request: the head of which has been found plain.
            body: all of it.
        """
        headers = request.scope["headers"]
        named = dict(headers)
        if (
            b"content-encoding" in named
            or len(named) < len(headers)  # two of a kind
            or not is_image(named.get(b"content-type", b""))
            or self.edge.tracing
        ):
            return False
        request.id, key = identity(named)
        try:
            self.edge.enter(request, key)
            request.upload.arrived(len(body), complete=True)
            crop = self._decode(request, body)
            if crop is None:
                self.edge.forget(request)
                return False
            runtime = self.runtime
            submission = request.submission = Submission(crop, partial(self._answer, request, runtime, crop))
            runtime.batcher.enqueue(submission)
        except Exception as error:
            request.end(self._failed(error))
        return True

    def _decode(self, request: DirectRequest, body: bytes) -> Pixels | None:
        """The crop, uint8 (1, height, width); None if it takes long to decode.

        Raises:
            ImageError, QuotaExceededError: it is not to be scored.
        """
        quota = quota_of(request.scope)
        if quota:
            quota.take(1)
        crop = self.runtime.decode_small(body)
        if crop is None and quota:
            quota.give_back(1)
        return crop

    def _answer(self, request: DirectRequest, runtime: Runtime, crop: Pixels, scores: Scores | Exception) -> None:
        try:
            if isinstance(scores, Exception):
                response = self._failed(scores)
            else:
                runtime.scored(crop, scores)
                score = scores.item()
                response = runtime.responses.one(score, runtime.scorer.state(score), None)
        except Exception as error:  # which would leave the other requests of the batch without an answer
            response = self._failed(error)
        request.end(response)

    def _failed(self, error: Exception) -> Response:
        if isinstance(error, DeviceError):
            processes.end_soon(error.message)
        return self.edge.failed(self.target, error)


class Asking(Protocol):
    """The connection that a request came by."""

    transport: Transport
    server_state: ServerState

    def on_response_complete(self) -> None:
        """The response has been written."""


class DirectRequest:
    """A request on the fast path, as uvicorn and the edge see it.

    Attributes:
        scope: its head.
        id: of the request.
        upload: its body, once it has entered the edge.
        submission: its crop, while that is queued.
        ended: whether it was given up or answered.
        response_started, response_complete: whether it was answered.
        keep_alive: whether the connection stays open then.
        disconnected: whether the client has left.
        more_body, message_event: for uvicorn; all of the body is here, and nobody waits.
    """

    __slots__ = (
        "_asking", "_fast_path", "disconnected", "ended", "id", "keep_alive", "response_complete",
        "response_started", "scope", "submission", "upload",
    )  # fmt: skip

    more_body: Final = False
    message_event: Final = asyncio.Event()

    def __init__(self, fast_path: FastPath, scope: Scope, asking: Asking) -> None:
        """Args:
        fast_path: that it is on.
        scope: its head.
        asking: the connection that it came by.
        """
        self._fast_path = fast_path
        self._asking = asking
        self.scope = scope
        self.id = b""
        self.upload: Upload
        self.submission: Submission | None = None
        self.keep_alive = True
        self.ended = self.disconnected = self.response_started = self.response_complete = False

    def end(self, response: Response) -> None:
        """Send the response."""
        fast_path, asking = self._fast_path, self._asking
        self.ended, self.submission = True, None  # which holds this object
        headers = response.raw_headers
        headers.append((b"x-request-id", self.id))
        if fast_path.edge.draining:
            headers.append((b"connection", b"close"))
        transport = asking.transport
        if not transport.is_closing():
            content, self.keep_alive = whole(response, asking.server_state.default_headers, keep_alive=self.keep_alive)
            self.response_started = self.response_complete = True
            transport.write(content)
            if not self.keep_alive:
                transport.close()
            asking.on_response_complete()
        fast_path.edge.leave(self, fast_path.target, response.status_code, self.id)

    def cancel(self, error: EyestateError | None) -> None:
        """Give up, and answer with the error unless the client has disconnected."""
        self.ended = True
        if self.submission:
            self.submission.cancel()
        if error:
            self.end(self._fast_path.edge.failed(self._fast_path.target, error))
        else:
            self.submission = None
            self._fast_path.edge.leave(self, self._fast_path.target, CLIENT_CLOSED_REQUEST, self.id)

    def watch_client(self) -> None:
        """Nothing: the connection tells."""

    def lost(self) -> None:
        """The client has disconnected."""
        if not self.ended:
            self.cancel(None)
