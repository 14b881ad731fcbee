"""The attempts at one request: which failures pass, how long to wait, and when to give up."""

from __future__ import annotations

import logging
import random
import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from pydantic import ValidationError

from eyestate.errors import ImageTooLargeError, NoAnswerError, ServiceError, UnreachableError
from eyestate.extras import extra
from eyestate.schema import ErrorDetail, ErrorResponse

with extra("client"):
    import httpx

log = logging.getLogger(__name__)

Outcome = httpx.Response | httpx.TransportError

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0
_SILENT_SECONDS: Final = 5.0  # a request that keeps failing for longer is logged as a warning
# Transient: timeouts, overload, and the responses of a proxy whose upstream is away.
_TRANSIENT: Final = frozenset({408, 429, 502, 503, 504})
_TRANSIENT_ERRORS: Final = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)
_NO_CONNECTION: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_OF_THE_REQUEST: Final = frozenset({408, 413, 500, 504})


class Attempts:
    """The attempts at one request: how long to pause before the next one, and when to give up."""

    def __init__(self, request: httpx.Request, patience: float, tries: int | None = None) -> None:
        """Args:
        request: what is sent.
        patience: seconds, from the first failure, for which attempts go on.
        tries: how many there are at most where the failure may lie in the request itself; None for no such limit.
        """
        self._request = request
        self._patience = patience
        self._tries = tries
        self._failures = 0
        self._first_failure = 0.0
        self._warned = False

    def pause_after(self, outcome: Outcome) -> float:
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
        spent = self._failures == self._tries and may_lie_in_the_request(self._failure(outcome, ""))
        if spent or asked > left or left <= 0:
            raise self._failure(outcome, f"; gave up after {failing:.0f} s and {self._failures} attempts")
        if failing > _SILENT_SECONDS and not self._warned:
            self._warned = True
            log.warning("%s; retrying for up to %g s", self._failure(outcome, "").message, self._patience)
        return min(left, asked + random.uniform(0, longest))  # noqa: S311  # no secret

    def _failure(self, outcome: Outcome, after: str) -> ServiceError:
        url = self._request.url
        if isinstance(outcome, httpx.TransportError):
            kind = UnreachableError if isinstance(outcome, _NO_CONNECTION) else NoAnswerError
            return kind(f"no answer from {url}: {str(outcome) or type(outcome).__name__}{after}")
        detail = _detail(outcome)
        return ServiceError(
            f"{url} answered {outcome.status_code} ({detail.code}): {detail.message}{after}",
            status=outcome.status_code,
            code=detail.code,
            request_id=outcome.headers.get("X-Request-ID", self._request.headers["X-Request-ID"]),
        )


def may_lie_in_the_request(error: ServiceError) -> bool:
    """Whether a failure may be due to what was sent, so that a part of it might succeed.

    Too much for the service or a proxy, too long to score in time, or an image that makes the service fail. Where the
    crops of an array are too large, all of them are.
    """
    if isinstance(error, NoAnswerError):
        return True
    return error.status in _OF_THE_REQUEST and error.code != ImageTooLargeError.code


def _is_transient(outcome: Outcome) -> bool:
    if isinstance(outcome, httpx.Response):
        return outcome.status_code in _TRANSIENT
    return isinstance(outcome, _TRANSIENT_ERRORS) and not _is_untrusted(outcome)


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether the connection failed because the service's certificate could not be verified."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def _retry_after(outcome: Outcome) -> float:
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
