"""Typed clients of the service: :class:`Client`, and :class:`AsyncClient` for many requests at a time.

Scoring has no side effects, so requests that meet an overloaded, restarting or unreachable service are retried, with
exponential backoff and jitter, for up to ``patience`` seconds.
"""

from __future__ import annotations

import asyncio
import io
import logging
import random
import ssl
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from eyestate import __version__
from eyestate.errors import ServiceError, UnreachableError
from eyestate.extras import extra
from eyestate.media_types import ARROW, JSON, NPY, OCTET_STREAM
from eyestate.schema import ErrorDetail, ErrorResponse, FacesResponse, LoadedModel, Readiness, ScoreResponse, Verdict

with extra("client"):
    import httpx
    import pyarrow as pa

log = logging.getLogger(__name__)

Images = Sequence[bytes] | npt.NDArray[np.uint8]
Item = TypeVar("Item")
Result = TypeVar("Result")

PATIENCE_SECONDS: Final = 60.0
TIMEOUT_SECONDS: Final = 60.0
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0
_SILENT_SECONDS: Final = 5.0  # a request that keeps failing for longer is logged as a warning
# Transient: timeouts, overload, and the responses of a proxy whose upstream is away.
_TRANSIENT: Final = frozenset({408, 429, 502, 503, 504})
_TRANSIENT_ERRORS: Final = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)
ANSWER: Final = pa.schema(
    [("score", pa.float32()), ("state", pa.string()), ("error", pa.string()), ("message", pa.string())]
)


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
        self._http = httpx.Client(**_settings(endpoint, api_key, verify, timeout))
        self._patience = patience

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def score(self, image: bytes) -> ScoreResponse:
        """Score one encoded image (JPEG, PNG, WebP or BMP): score and state, with the model they come from."""
        return _score_response(self._send(_score_request(self._http, image)))

    def find_faces(self, photo: bytes) -> FacesResponse:
        """Find the faces in an encoded photo and score their eyes: largest first, with boxes in pixels."""
        return _faces_response(self._send(_faces_request(self._http, photo)))

    def score_batch(self, images: Images) -> list[Verdict | ErrorDetail]:
        """Score many images in one request; see ``score_table`` for what they may be.

        Returns:
            For each image, in order, its score and state, or the error if it cannot be scored.
        """
        return _verdicts(self.score_table(images))

    def score_table(self, images: Images) -> pa.Table:
        """As ``score_batch``, as an Arrow table.

        Args:
            images: encoded images, or crops of one size as a uint8 array: (N, height, width) grey or (N, height,
                width, 3) RGB. At least one, at most 16,384 and 64 MiB.

        Returns:
            float32 ``score``, and the strings ``state``, ``error`` (its code) and ``message``: the first two are
            null for images that could not be scored, the others for those that could. ``served_model`` names the model.
        """
        return _table(self._send(_batch_request(self._http, images)), len(images))

    def ready(self) -> bool:
        """Whether the service accepts requests now; not retried."""
        try:
            return self._http.get("readyz").is_success
        except httpx.TransportError:
            return False

    def model(self) -> LoadedModel:
        """The model that the service runs."""
        return _ready_model(self._send(_request(self._http, "GET", "readyz")))

    def _send(self, request: httpx.Request) -> httpx.Response:
        attempts = _Attempts(request, self._patience)
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
        self._http = httpx.AsyncClient(limits=limits, **_settings(endpoint, api_key, verify, timeout))
        self._patience = patience
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
        return _score_response(await self._send(_score_request(self._http, image)))

    async def find_faces(self, photo: bytes) -> FacesResponse:
        """As ``Client.find_faces``."""
        return _faces_response(await self._send(_faces_request(self._http, photo)))

    async def score_batch(self, images: Images) -> list[Verdict | ErrorDetail]:
        """As ``Client.score_batch``."""
        return _verdicts(await self.score_table(images))

    async def score_table(self, images: Images) -> pa.Table:
        """As ``Client.score_table``."""
        return _table(await self._send(_batch_request(self._http, images)), len(images))

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
        return _ready_model(await self._send(_request(self._http, "GET", "readyz")))

    async def _send(self, request: httpx.Request) -> httpx.Response:
        async with self._turns:
            attempts = _Attempts(request, self._patience)
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


def served_model(table: pa.Table) -> LoadedModel:
    """The model that gave the scores of a table.

    Raises:
        ServiceError: the table does not name it.
    """
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    try:
        return LoadedModel(**{field: metadata[f"model_{field}"] for field in LoadedModel.model_fields})
    except KeyError as error:
        raise _bad_response(f"its Arrow answer lacks the metadata {error}") from None


class _Attempts:
    """The attempts at one request: how long to pause before the next one, and when to give up."""

    def __init__(self, request: httpx.Request, patience: float) -> None:
        self._request = request
        self._patience = patience
        self._failures = 0
        self._first_failure = 0.0
        self._warned = False

    def pause_after(self, outcome: httpx.Response | httpx.TransportError) -> float:
        """Seconds until the next attempt.

        Raises:
            ServiceError: there is none: another attempt cannot help, or the patience is exhausted.
        """
        now = time.monotonic()
        if self._failures == 0:
            self._first_failure = now
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures, 10))
        self._failures += 1
        if not _is_transient(outcome):
            raise self._failure(outcome, "")
        failing, asked = now - self._first_failure, _retry_after(outcome)
        left = self._patience - failing
        if asked > left or left <= 0:
            raise self._failure(outcome, f"; gave up after {failing:.0f} s and {self._failures} attempts")
        if failing > _SILENT_SECONDS and not self._warned:
            self._warned = True
            log.warning("%s; retrying for up to %g s", self._failure(outcome, "").message, self._patience)
        return min(left, asked + random.uniform(0, longest))  # noqa: S311  # no secret

    def _failure(self, outcome: httpx.Response | httpx.TransportError, after: str) -> ServiceError:
        url = self._request.url
        if isinstance(outcome, httpx.TransportError):
            return UnreachableError(f"no answer from {url}: {str(outcome) or type(outcome).__name__}{after}")
        detail = _detail(outcome)
        return ServiceError(
            f"{url} answered {outcome.status_code} ({detail.code}): {detail.message}{after}",
            status=outcome.status_code,
            code=detail.code,
            request_id=outcome.headers.get("X-Request-ID", self._request.headers["X-Request-ID"]),
        )


def _is_transient(outcome: httpx.Response | httpx.TransportError) -> bool:
    if isinstance(outcome, httpx.Response):
        return outcome.status_code in _TRANSIENT
    return isinstance(outcome, _TRANSIENT_ERRORS) and not _is_untrusted(outcome)


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether the connection failed because the service's certificate could not be verified."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def _retry_after(outcome: httpx.Response | httpx.TransportError) -> float:
    """Seconds the service asks us to wait: a number, or the time until a date."""
    value = outcome.headers.get("Retry-After", "0") if isinstance(outcome, httpx.Response) else "0"
    try:
        return float(value) if value.isdecimal() else max(0, (_date(value) - datetime.now(UTC)).total_seconds())
    except ValueError:
        return 0.0


def _date(text: str) -> datetime:
    date = parsedate_to_datetime(text)
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _detail(response: httpx.Response) -> ErrorDetail:
    """The error in a response of the service, or of a proxy in front of it, which has another form."""
    try:
        return ErrorResponse.model_validate_json(response.content).error
    except ValidationError:
        return ErrorDetail(code="http_error", message=response.reason_phrase)


def _settings(endpoint: str, api_key: str | None, verify: bool | Path, timeout: float) -> dict[str, Any]:
    """The arguments of both httpx clients."""
    try:
        url = httpx.URL(endpoint)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise UnreachableError(f"the endpoint {endpoint!r} is no URL such as http://127.0.0.1:3000")
    authorization = {"Authorization": f"Bearer {api_key}".encode()} if api_key else {}
    return {
        "base_url": url,
        "headers": {"User-Agent": f"eyestate/{__version__}", **authorization},
        # Loading the system's certificates takes a tenth of a second, which plain HTTP can do without.
        "verify": url.scheme == "https" and (_trust(verify) if isinstance(verify, Path) else verify),
        "timeout": timeout,
    }


def _trust(certificates: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=certificates)
    except OSError as error:  # ssl's own error is one
        raise UnreachableError(f"cannot read CA certificates from {certificates}: {error.strerror or error}") from None


def _request(http: httpx.Client | httpx.AsyncClient, method: str, path: str, **options: Any) -> httpx.Request:
    request = http.build_request(method, path, **options)
    request.headers["X-Request-ID"] = uuid.uuid4().hex  # the same for all attempts
    return request


def _score_request(http: httpx.Client | httpx.AsyncClient, image: bytes) -> httpx.Request:
    return _image_request(http, "v1/score", image)


def _faces_request(http: httpx.Client | httpx.AsyncClient, photo: bytes) -> httpx.Request:
    return _image_request(http, "v1/faces", photo)


def _image_request(http: httpx.Client | httpx.AsyncClient, path: str, image: bytes) -> httpx.Request:
    headers = {"Content-Type": OCTET_STREAM, "Accept": JSON}
    return _request(http, "POST", path, content=image, headers=headers)


def _batch_request(http: httpx.Client | httpx.AsyncClient, images: Images) -> httpx.Request:
    body, content_type = _npy(images) if isinstance(images, np.ndarray) else _arrow(images)
    headers = {"Content-Type": content_type, "Accept": ARROW}
    return _request(http, "POST", "v1/score/batch", content=body, headers=headers)


def _npy(crops: npt.NDArray[np.uint8]) -> tuple[bytes, str]:
    if crops.dtype != np.uint8:
        raise TypeError(f"crops are a uint8 array, not {crops.dtype}")
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(crops), allow_pickle=False)
    return file.getvalue(), NPY


def _arrow(images: Sequence[bytes]) -> tuple[bytes, str]:
    batch = pa.record_batch({"image": pa.array(images, pa.binary())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes(), ARROW


def _score_response(response: httpx.Response) -> ScoreResponse:
    try:
        return ScoreResponse.model_validate_json(response.content)
    except ValidationError:
        raise _bad_response("its answer is no score") from None


def _faces_response(response: httpx.Response) -> FacesResponse:
    try:
        return FacesResponse.model_validate_json(response.content)
    except ValidationError:
        raise _bad_response("its answer tells no faces") from None


def _ready_model(response: httpx.Response) -> LoadedModel:
    try:
        return Readiness.model_validate_json(response.content).model
    except ValidationError:
        raise _bad_response("its /readyz does not tell the model") from None


def _table(response: httpx.Response, count: int) -> pa.Table:
    try:
        table = pa.ipc.open_stream(response.content).read_all()
        table = table.select(ANSWER.names).cast(ANSWER.with_metadata(table.schema.metadata))
    except (pa.ArrowException, KeyError, ValueError):
        raise _bad_response("its answer is no Arrow table of scores") from None
    if table.num_rows != count:
        raise _bad_response(f"it answered {table.num_rows} scores for {count} images")
    return table


def _verdicts(table: pa.Table) -> list[Verdict | ErrorDetail]:
    return [
        Verdict(score=row["score"], state=row["state"])
        if row["error"] is None
        else ErrorDetail(code=row["error"], message=row["message"])
        for row in table.to_pylist()
    ]


def _bad_response(what: str) -> ServiceError:
    return ServiceError(f"the endpoint does not speak eyestate's protocol: {what}", status=502, code="bad_answer")
