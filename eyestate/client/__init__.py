"""Typed clients of the service: :class:`Client`, and :class:`AsyncClient` for many requests at a time.

Scoring has no side effects, so requests that meet an overloaded, restarting or unreachable service are retried, with
exponential backoff and jitter, for up to ``patience`` seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from eyestate.client import messages
from eyestate.client.attempts import Attempts
from eyestate.client.bulk import Failures, joined, pieces, scored
from eyestate.client.connection import connected
from eyestate.client.messages import ANSWER, Images, served_model
from eyestate.errors import ServiceError
from eyestate.extras import extra
from eyestate.schema import BestResponse, ErrorDetail, FacesResponse, LoadedModel, ScoreResponse, Verdict

with extra("client"):
    import httpx
    import pyarrow as pa

__all__ = ["ANSWER", "AsyncClient", "Client", "Images", "ordered", "served_model"]

Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE_SECONDS: Final = 60.0
TIMEOUT_SECONDS: Final = 60.0


class Client:
    """Scores images over HTTP. Keeps its connections open; safe to share between threads; a context manager.

    Every method raises ServiceError if the service rejects the request or fails, and its subclass UnreachableError if
    there is no response.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        api_key: str | None = None,
        verify: bool | Path = True,
        timeout: float = TIMEOUT_SECONDS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Args:
        endpoint: base URL of the service, such as ``http://127.0.0.1:3000``.
        api_key: sent as ``Authorization: Bearer``.
        verify: whether to verify the certificate of an https endpoint; a path names a file of CA certificates to use
            instead of the system's.
        timeout: seconds that one attempt may wait for the service to accept or send data.
        patience: seconds, from the first failure of a request, during which it is retried.
        """
        self._http = connected(httpx.Client, endpoint, api_key, verify, timeout)
        self._patience = patience
        self._failures = Failures()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def score(self, image: bytes) -> ScoreResponse:
        """Score one encoded image (JPEG, PNG, WebP or BMP): score and state, with the model they come from."""
        return messages.score_response(self._send(messages.score_request(self._http, image)))

    def find_faces(self, photo: bytes, *, verdict: bool = False) -> FacesResponse:
        """Find the faces in an encoded photo and score their eyes: largest first, with boxes in pixels.

        Args:
            photo: JPEG, PNG, WebP or BMP.
            verdict: whether to tell who has both eyes open, who blinks, and of whom it cannot be told.
        """
        return messages.faces_response(self._send(messages.faces_request(self._http, photo, verdict=verdict)))

    def best_photo(self, photos: Sequence[bytes]) -> BestResponse:
        """Choose the best of up to 20 encoded photos of the same people, as for eyes; all are ranked."""
        return messages.best_response(self._send(messages.best_request(self._http, photos)))

    def score_batch(self, images: Images) -> list[Verdict | ErrorDetail]:
        """Score many images; see ``score_table`` for what they may be.

        Returns:
            For each image, in order, its score and state, or the error if it cannot be scored.
        """
        return messages.verdicts(self.score_table(images))

    def score_table(self, images: Images) -> pa.Table:
        """As ``score_batch``, as an Arrow table.

        Sends as many requests as the service's limits on number, bytes and pixels need. Where one fails in a way that
        a single image may be the reason of, its images are sent again one by one.

        Args:
            images: encoded images, or crops of one size as a uint8 array: (N, height, width) grey or (N, height,
                width, 3) RGB. At least one.

        Returns:
            float32 ``score``, and the strings ``state``, ``error`` (its code) and ``message``: the first two are
            null for images that could not be scored, the others for those that could. ``served_model`` names the model.
        """
        return joined([self._scored(piece) for piece in pieces(images)])

    def ready(self) -> bool:
        """Whether the service accepts requests now; not retried."""
        try:
            return self._http.get("readyz").is_success
        except httpx.TransportError:
            return False

    def model(self) -> LoadedModel:
        """The model that the service runs."""
        return messages.ready_model(self._send(messages.request(self._http, "GET", "readyz")))

    def _scored(self, images: Images) -> pa.Table:
        steps = scored(self._http, images, self._failures)
        request, tries = next(steps)
        while True:
            outcome: httpx.Response | ServiceError
            try:
                outcome = self._send(request, tries)
            except ServiceError as error:
                outcome = error
            try:
                request, tries = steps.send(outcome)
            except StopIteration as end:
                return end.value

    def _send(self, request: httpx.Request, tries: int | None = None) -> httpx.Response:
        attempts = Attempts(request, self._patience, tries)
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                outcome = self._http.send(request)
            except httpx.TransportError as error:
                outcome = error
            if isinstance(outcome, httpx.Response) and outcome.is_success:
                return outcome
            time.sleep(attempts.pause_after(outcome))


class AsyncClient:
    """As :class:`Client`, for asyncio, with a bound on the number of requests in flight."""

    def __init__(
        self,
        endpoint: str,
        *,
        api_key: str | None = None,
        verify: bool | Path = True,
        timeout: float = TIMEOUT_SECONDS,
        patience: float = PATIENCE_SECONDS,
        in_flight: int = 4,
    ) -> None:
        """Args:
        in_flight: largest number of requests in flight, including those that pause before a retry; others wait for
            their turn. The other arguments are those of ``Client``.
        """
        limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
        self._http = connected(httpx.AsyncClient, endpoint, api_key, verify, timeout, limits=limits)
        self._patience = patience
        self._failures = Failures()
        self._in_flight = in_flight
        self._turns = asyncio.Semaphore(in_flight)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def score(self, image: bytes) -> ScoreResponse:
        """As ``Client.score``."""
        return messages.score_response(await self._send(messages.score_request(self._http, image)))

    async def find_faces(self, photo: bytes, *, verdict: bool = False) -> FacesResponse:
        """As ``Client.find_faces``."""
        return messages.faces_response(await self._send(messages.faces_request(self._http, photo, verdict=verdict)))

    async def best_photo(self, photos: Sequence[bytes]) -> BestResponse:
        """As ``Client.best_photo``."""
        return messages.best_response(await self._send(messages.best_request(self._http, photos)))

    async def score_batch(self, images: Images) -> list[Verdict | ErrorDetail]:
        """As ``Client.score_batch``."""
        return messages.verdicts(await self.score_table(images))

    async def score_table(self, images: Images) -> pa.Table:
        """As ``Client.score_table``."""
        return joined([await self._scored(piece) for piece in pieces(images)])

    async def map(self, batches: Iterable[Images]) -> AsyncGenerator[list[Verdict | ErrorDetail], None]:
        """``score_batch`` of each batch, in order, several at a time.

        Batches are read in a thread, since they may come from a disk, at most twice ``in_flight`` ahead of the results
        that were consumed.
        """
        async with aclosing(ordered(self.score_batch, batches, 2 * self._in_flight)) as results:
            async for result in results:
                yield result

    async def ready(self) -> bool:
        """As ``Client.ready``."""
        try:
            return (await self._http.get("readyz")).is_success
        except httpx.TransportError:
            return False

    async def model(self) -> LoadedModel:
        """As ``Client.model``."""
        return messages.ready_model(await self._send(messages.request(self._http, "GET", "readyz")))

    async def _scored(self, images: Images) -> pa.Table:
        steps = scored(self._http, images, self._failures)
        request, tries = next(steps)
        while True:
            outcome: httpx.Response | ServiceError
            try:
                outcome = await self._send(request, tries)
            except ServiceError as error:
                outcome = error
            try:
                request, tries = steps.send(outcome)
            except StopIteration as end:
                return end.value

    async def _send(self, request: httpx.Request, tries: int | None = None) -> httpx.Response:
        async with self._turns:
            attempts = Attempts(request, self._patience, tries)
            while True:
                outcome: httpx.Response | httpx.TransportError
                try:
                    outcome = await self._http.send(request)
                except httpx.TransportError as error:
                    outcome = error
                if isinstance(outcome, httpx.Response) and outcome.is_success:
                    return outcome
                await asyncio.sleep(attempts.pause_after(outcome))


async def ordered(
    call: Callable[[Item], Awaitable[Result]], items: Iterable[Item], window: int
) -> AsyncGenerator[Result, None]:
    """The results of ``call`` on each item, in order, with up to ``window`` calls started and not yet consumed.

    The items are read in a thread. Calls still running when the caller stops are cancelled.
    """
    source, end = iter(items), object()
    begun: deque[asyncio.Task[Result]] = deque()
    more = True
    try:
        while more or begun:
            if more and len(begun) < window:
                item: Any = await asyncio.to_thread(next, source, end)
                more = item is not end
                if more:
                    begun.append(asyncio.ensure_future(call(item)))
            else:
                yield await begun.popleft()
    finally:
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
