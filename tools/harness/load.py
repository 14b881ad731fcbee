"""An HTTP/1.1 load generator that accounts for every request: answered with a status, or lost and why.

wrk is faster, but it neither keeps a rate nor reports the outcome of single requests, and runs that kill servers need
both. Each keep-alive connection carries one request at a time.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from random import Random
from typing import Any, Final, NamedTuple, TypeVar, cast

import httptools
import numpy as np
import uvloop

TIMEOUT_SECONDS: Final = 60
MAX_CONNECTIONS: Final = 8_192
_TICK_SECONDS: Final = 0.001
_PAUSE_SECONDS: Final = 0.02  # after a refused connection

Result = TypeVar("Result")


class RequestLostError(Exception):  # it is a fate of a request, to be counted
    """A request was sent, but no complete response came back."""


class Response(NamedTuple):
    """A response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Outcome(NamedTuple):
    """What became of one request.

    Attributes:
        sent: ``time.perf_counter()`` when it left.
        seconds: from then until the response or the loss.
        status: None if it was lost.
        loss: how it was lost, None if it was answered.
        retry_after: the header of that name.
        local_port: of the connection on this side.
        late: seconds by which it left after it was due; the caller's latency is ``late + seconds``.
    """

    sent: float
    seconds: float
    status: int | None
    loss: str | None
    retry_after: str | None
    local_port: int
    late: float = 0.0


def http_request(path: str, body: bytes = b"", content_type: str = "image/jpeg", accept: str = "*/*") -> bytes:
    """The bytes of a POST request with that body, or of a GET request if there is none."""
    head = [f"{'POST' if body else 'GET'} {path} HTTP/1.1", "Host: 127.0.0.1", f"Accept: {accept}"]
    if body:
        head += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "\r\n"]).encode() + body


class Connection(asyncio.Protocol):
    """One connection to a server on the loopback interface."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Response] | None = None
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self.local_port = 0
        self.usable = False
        self.requests_sent = 0

    @staticmethod
    async def open(port: int) -> Connection:
        """Connect.

        Raises:
            OSError: nothing listens on the port, or the connection is not accepted.
        """
        _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
        return connection

    async def request(self, request: bytes) -> Response:
        """Send a request and wait for its response; one at a time.

        Raises:
            RequestLostError: the connection ended before the response was complete.
            TimeoutError: no response within ``TIMEOUT_SECONDS``.
        """
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._headers, self._body = {}, []
        self.requests_sent += 1
        self._transport.write(request)
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await self._waiter
        except TimeoutError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self.usable = False
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport does not inherit from it
        self.local_port = transport.get_extra_info("sockname")[1]
        self.usable = True

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._lose(f"not HTTP: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._lose("reset by the server" if exc else "closed by the server")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        if self._waiter is not None and not self._waiter.done():
            answer = Response(self._parser.get_status_code(), self._headers, b"".join(self._body))
            self._waiter.set_result(answer)

    def _lose(self, why: str) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(RequestLostError(why))


class LoadGenerator:
    """Sends requests to one server and records the outcome of each.

    Attributes:
        sent: requests that left this process; each has an outcome once the load is over.
        refused: connections that could not be opened.
        held_back: requests that were due while ``MAX_CONNECTIONS`` were busy, and never sent.
        lags: of an open loop, the seconds by which each request was started late. If they are long, the generator has
            reached its limit, not the server.
    """

    def __init__(self, port: int, requests: Sequence[bytes], per_connection: int | None = None) -> None:
        """Prepare the load; nothing is sent yet.

        Args:
            port: of the server on the loopback interface.
            requests: sent in turn, cyclically.
            per_connection: requests after which a connection is replaced, so that every worker of a server gets some.
        """
        self._port = port
        self._per_connection = per_connection
        self._requests = itertools.cycle(requests)
        self._idle: list[Connection] = []
        self.sent = 0
        self.refused = 0
        self.first_refused: float | None = None  # time.perf_counter()
        self.held_back = 0
        self.lags: list[float] = []
        self.outcomes: list[Outcome] = []

    async def closed_loop(self, connections: int, stop: asyncio.Event) -> None:
        """Keep that many connections busy, each sending its next request as soon as the last one is answered."""
        await asyncio.gather(*(self._keep_busy(stop) for _ in range(connections)))

    async def open_loop(self, rate: float, stop: asyncio.Event) -> None:
        """Send ``rate`` requests per second, whether or not earlier ones have been answered."""
        await self.send_at((number / rate for number in itertools.count()), stop)

    async def send_at(self, times: Iterable[float], stop: asyncio.Event) -> None:
        """Send a request at each time, in seconds from now, whether or not earlier ones have been answered."""
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        under_way: set[asyncio.Task[None]] = set()
        for seconds in times:
            due = started + seconds
            while time.perf_counter() < due and not stop.is_set():
                await asyncio.sleep(_TICK_SECONDS)
            if stop.is_set():
                break
            self.lags.append(time.perf_counter() - due)
            if len(under_way) >= MAX_CONNECTIONS:
                self.held_back += 1
                continue
            task = loop.create_task(self._send_one(due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def _keep_busy(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._send_one()

    async def _send_one(self, due: float | None = None) -> None:
        connection = await self._connection()
        if connection is None:
            return
        sent, status, loss, retry_after = time.perf_counter(), None, None, None
        self.sent += 1
        try:
            answer = await connection.request(next(self._requests))
            status, retry_after = answer.status, answer.headers.get("retry-after")
        except RequestLostError as error:
            loss = str(error)
        except TimeoutError:
            loss = f"no answer within {TIMEOUT_SECONDS} s"
        seconds = time.perf_counter() - sent
        late = 0.0 if due is None else sent - due
        self.outcomes.append(Outcome(sent, seconds, status, loss, retry_after, connection.local_port, late))
        if connection.requests_sent == self._per_connection:
            connection.close()
        elif connection.usable:
            self._idle.append(connection)

    async def _connection(self) -> Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).usable:
                return connection
        try:
            return await Connection.open(self._port)
        except OSError:
            self.refused += 1
            self.first_refused = self.first_refused or time.perf_counter()
            await asyncio.sleep(_PAUSE_SECONDS)
            return None


def statuses(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Number of responses by status."""
    counts = Counter(str(outcome.status) for outcome in outcomes if outcome.status is not None)
    return dict(sorted(counts.items()))


def losses(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Number of lost requests by cause."""
    counts = Counter(outcome.loss for outcome in outcomes if outcome.loss is not None)
    return dict(sorted(counts.items()))


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Arrival times in seconds of independent callers, ``rate`` per second on average: a Poisson process."""
    random = Random(seed)  # noqa: S311
    return itertools.accumulate(random.expovariate(rate) for _ in itertools.count())


def percentiles_ms(outcomes: Iterable[Outcome], wanted: Callable[[Outcome], bool]) -> dict[str, float] | None:
    """p50, p90, p99 and maximum of the selected outcomes in milliseconds; None if there are none."""
    times = [outcome.seconds * 1e3 for outcome in outcomes if wanted(outcome)]
    if not times:
        return None
    values = np.percentile(times, [50, 90, 99, 100]).round(2).tolist()
    return dict(zip(("p50", "p90", "p99", "max"), values, strict=True))


async def stop_after(seconds: float, stop: asyncio.Event) -> None:
    """Set the event after that many seconds."""
    await asyncio.sleep(seconds)
    stop.set()


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run on uvloop, so that the generator takes as little CPU as possible from the server on the same machine."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
