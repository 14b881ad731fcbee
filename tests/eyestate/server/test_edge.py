"""The edge around small endpoints, under a real HTTP server in this process."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, Span
from prometheus_client.registry import REGISTRY
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from eyestate.errors import DeadlineExceededError, EyestateError, OverloadedError
from eyestate.server import metrics, uploads
from eyestate.server.admission import Places
from eyestate.server.auth import ApiKeys
from eyestate.server.edge import Edge
from eyestate.server.responses import error_response
from eyestate.server.routing import Endpoint, Target
from eyestate.server.tracing import Tracing

TIMEOUT = 1.0


async def echo(request: Request) -> Response:
    return PlainTextResponse(await uploads.body(request, 1000))


async def full(request: Request) -> Response:
    raise OverloadedError("full", retry_after=7)


async def broken(request: Request) -> Response:
    raise RuntimeError("a secret")


class Slow:
    """An endpoint that reads its body and then hangs; it tells how it ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def __call__(self, request: Request) -> Response:
        await uploads.body(request, 1000)
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        return Response()


async def gated(request: Request) -> Response:
    """Echo the body once the event ``gate`` of the request's scope is set."""
    content = await uploads.body(request, 1000)
    await request.scope["gate"].wait()
    return PlainTextResponse(content)


async def until(reached: Callable[[], bool]) -> None:
    """Wait for what comes about while the loop goes round."""
    async with asyncio.timeout(10):
        while not reached():
            await asyncio.sleep(0.01)


async def fallback(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await PlainTextResponse("from the other application", 418)(scope, receive, send)


def with_edge(work: Callable[[Edge, httpx.AsyncClient, Slow], Awaitable[None]], keys: ApiKeys | None = None) -> None:
    slow = Slow()
    endpoints: dict[str, Endpoint] = {
        "/echo": echo,
        "/full": full,
        "/broken": broken,
        "/slow": slow,
        "/gated": gated,
        "/probe": echo,
    }
    targets = {
        path: Target(endpoint, path, error_response, operational=path == "/probe")
        for path, endpoint in endpoints.items()
    }

    async def run() -> None:
        edge = Edge(lambda scope: targets.get(scope["path"]), fallback, timeout=TIMEOUT, keys=keys)
        server = uvicorn.Server(uvicorn.Config(edge, log_config=None, lifespan="off"))
        listener = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        sweeping = asyncio.create_task(edge.enforce_deadlines())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=url, timeout=10) as client:
                await work(edge, client, slow)
        finally:
            server.should_exit = True
            await serving
            sweeping.cancel()
            listener.close()
        assert edge.active == 0

    asyncio.run(run())


def test_a_request_gets_an_id_or_keeps_its_own() -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        first, second = [await client.post("/echo", content=b"x") for _ in range(2)]
        assert len({first.headers["x-request-id"], second.headers["x-request-id"]}) == 2
        for sent, kept in [("abc-1.2_Z", True), ("", False), ("a b", False), ("x" * 129, False), ('"<>', False)]:
            answer = await client.post("/echo", content=b"x", headers={"X-Request-ID": sent})
            assert (answer.headers["x-request-id"] == sent) == kept

    with_edge(work)


def test_what_has_no_target_is_the_other_applications() -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        assert (await client.get("/elsewhere")).status_code == 418

    with_edge(work)


def test_errors_are_told_and_ours_are_logged_but_not_told(caplog: pytest.LogCaptureFixture) -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        answer = await client.post("/full")
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
        answer = await client.post("/broken")
        assert answer.status_code == 500
        assert "secret" not in answer.text

    with caplog.at_level(logging.INFO):
        with_edge(work)
    assert any(record.exc_info and "a secret" in str(record.exc_info[1]) for record in caplog.records)


def test_a_late_answer_is_504_and_a_late_body_408() -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        answer = await client.post("/slow", content=b"x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert slow.ended == ["cancelled"]

        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly a little")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5 * TIMEOUT)
        assert head.startswith(b"HTTP/1.1 408")
        assert b"\r\nconnection: close\r\n" in head.lower()
        assert b"request_timeout" in await reader.read()
        writer.close()

    with_edge(work)


def test_a_client_that_leaves_frees_its_place() -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        edge._timeout = 60  # it is not the deadline that frees it
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        await until(lambda: edge.active == 1)
        writer.close()
        await until(lambda: edge.active == 0)
        assert slow.ended == ["cancelled"]
        assert (await client.post("/echo", content=b"x")).text == "x"

    with_edge(work)


def test_while_it_drains_answers_close_their_connection_and_then_requests_are_refused() -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        edge.draining = True
        answer = await client.post("/echo", content=b"x")
        assert (answer.text, answer.headers["connection"]) == ("x", "close")
        edge.rejecting = True
        answer = await client.post("/echo", content=b"x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await client.post("/probe", content=b"x")).text == "x"

    with_edge(work)


def test_only_those_with_a_key_are_answered(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# for the tests\n\nright-key\nsecond\nключ\n", encoding="utf-8")

    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        async def status(**headers: str) -> int:
            return (await client.post("/echo", content=b"x", headers=headers)).status_code

        assert await status(Authorization="Bearer right-key") == 200
        assert await status(Authorization="bearer second") == 200
        assert await status(**{"X-API-Key": "right-key"}) == 200
        as_our_client_sends_it = {b"Authorization": "Bearer ключ".encode()}
        assert (await client.post("/echo", content=b"x", headers=as_our_client_sends_it)).status_code == 200
        assert await status(Authorization="Basic right-key") == 401
        assert await status(Authorization="Bearer x") == 401
        assert await status(**{"X-API-Key": "# for the tests"}) == 401
        assert await status(**{"X-API-Key": "wrong"}) == 401
        answer = await client.post("/echo", content=b"x")
        assert answer.json()["error"]["code"] == "unauthorized"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert (await client.post("/probe", content=b"x")).status_code == 200

    with_edge(work, ApiKeys(file))


def test_refused_requests_are_logged_without_their_content(caplog: pytest.LogCaptureFixture) -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        await client.post("/echo?key=private", content=b"private" * 1000, headers={"X-Request-ID": "r1"})
        await client.post("/echo", content=b"fine")

    with caplog.at_level(logging.INFO, logger="eyestate.requests"):
        with_edge(work)
    (record,) = (record for record in caplog.records if record.name == "eyestate.requests")
    logged = {key: record.__dict__[key] for key in ("route", "status", "request_id")}
    assert logged == {"route": "/echo", "status": 413, "request_id": "r1"}
    assert "private" not in json.dumps(record.__dict__, default=str)


def test_too_many_requests_are_refused_and_logged_together(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("eyestate.server.edge.Places", lambda: Places(2))

    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        waiting = [asyncio.create_task(client.post("/slow", content=b"x")) for _ in range(2)]
        await until(lambda: bodies_read(edge) == 2)
        refused = [await client.post("/echo", content=b"x") for _ in range(5)]
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {(429, "1")}
        assert (await client.post("/probe", content=b"x")).status_code == 200
        await asyncio.gather(*waiting)
        assert (await client.post("/echo", content=b"x")).status_code == 200

    with caplog.at_level(logging.INFO, logger="eyestate.requests"):
        with_edge(work)
    assert sum(record.__dict__.get("refused", 0) for record in caplog.records) == 5


def test_a_refusal_by_the_head_is_that_of_the_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyestate.server.edge.Places", lambda: Places(2))
    counted = [
        ("eyestate_requests_total", {"route": "/echo", "status": "429"}),
        ("eyestate_rejected_total", {"reason": "overloaded"}),
    ]

    def count() -> list[float]:
        metrics.publish_requests()
        return [REGISTRY.get_sample_value(name, labels) or 0 for name, labels in counted]

    def scope(path: str) -> Scope:
        return {"method": "POST", "path": path, "headers": [(b"x-request-id", b"mine")]}

    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        assert edge.expect("127.0.0.1") is None
        waiting = [asyncio.create_task(client.post("/slow", content=b"x")) for _ in range(2)]
        await until(lambda: bodies_read(edge) == 2)
        whole = await client.post("/echo", content=b"x", headers={"X-Request-ID": "mine"})
        why = edge.expect("127.0.0.1")
        assert why is not None
        before = count()
        answer = edge.refusal(scope("/echo"), why)
        assert answer is not None
        assert count() == [number + 1 for number in before]
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *headers = head.decode().split("\r\n")
        assert status == "HTTP/1.1 429 Too Many Requests"
        found = dict(header.split(": ", 1) for header in headers)
        assert found == {name: value for name, value in whole.headers.items() if name not in ("date", "server")}
        assert body == whole.content
        assert edge.refusal(scope("/probe"), why) is edge.refusal(scope("/elsewhere"), why) is None
        edge.draining = True
        assert edge.refusal(scope("/echo"), why) is None
        await asyncio.gather(*waiting)

    with_edge(work)


def test_many_large_bodies_do_not_take_all_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = uploads.BodyBudget(limit=1500)
    monkeypatch.setattr("eyestate.server.edge.BodyBudget", lambda make_room: bodies)

    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        waiting = asyncio.create_task(client.post("/slow", content=bytes(1000)))
        await until(lambda: bodies.held == 1000)
        answer = await client.post("/echo", content=bytes(600))
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert (await client.post("/echo", content=bytes(400))).status_code == 200
        assert (await waiting).status_code == 504
        assert bodies.held == 0
        assert (await client.post("/echo", content=bytes(600))).status_code == 200

    with_edge(work)


async def upload(client: httpx.AsyncClient, size: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request that sends one byte less than it has announced."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + bytes(size - 1))
    return reader, writer


def test_bodies_that_stand_still_take_no_place_and_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyestate.server.edge.Places", lambda: Places(2))
    monkeypatch.setattr("eyestate.server.edge.BodyBudget", partial(uploads.BodyBudget, 1500))
    monkeypatch.setattr("eyestate.server.admission._STALLED_SECONDS", 0.05)

    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        edge._timeout = 60
        waiting = [await upload(client, 401) for _ in range(3)]
        await until(lambda: edge._bodies.held == 1200)
        assert (await client.post("/echo", content=bytes(300))).status_code == 200
        await asyncio.sleep(0.1)
        assert (await client.post("/echo", content=bytes(600))).status_code == 200
        head = await asyncio.wait_for(waiting[0][0].read(), 5)  # it is closed
        assert head.startswith(b"HTTP/1.1 408")
        waiting[1][1].write(b"x")
        assert (await waiting[1][0].readline()).startswith(b"HTTP/1.1 200")
        for _, writer in waiting:
            writer.close()
        await until(lambda: edge.active == 0)
        assert edge._bodies.held == 0

    with_edge(work)


def test_a_body_that_is_slower_than_the_least_rate_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyestate.server.admission.PATIENCE_SECONDS", 0.2)

    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        edge._timeout = 60
        reader, writer = await upload(client, 500)
        answer = await asyncio.wait_for(reader.read(), 5)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"at less than 240 bytes a second" in answer
        writer.close()

    with_edge(work)


def test_two_applications_do_not_share_a_budget_for_bodies() -> None:
    first, second = (Edge(lambda _: None, fallback, timeout=TIMEOUT, keys=None) for _ in range(2))
    assert first._bodies is not second._bodies


class Exchange:
    """A request that is given to the edge without a server, so that a test decides when what happens."""

    def __init__(self, edge: Edge, path: str, *body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.gate = asyncio.Event()
        self.leaves = asyncio.Event()
        self.takes = asyncio.Event()  # what is sent
        self.takes.set()
        self.sent: list[Message] = []
        self._messages: list[Message] = [
            {"type": "http.request", "body": part, "more_body": place < len(body)}
            for place, part in enumerate(body, start=1)
        ]
        self.receiving = False
        scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers), "gate": self.gate}
        self.task = asyncio.create_task(edge(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        assert not self.receiving, "two received at a time: one takes the other's message"
        self.receiving = True
        try:
            if self._messages:
                await asyncio.sleep(0.05)  # each part of a body comes several sweeps after the last
                return self._messages.pop(0)
            await self.leaves.wait()
            return {"type": "http.disconnect"}
        finally:
            self.receiving = False

    async def _send(self, message: Message) -> None:
        await self.takes.wait()
        self.sent.append(message)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


@pytest.fixture
def often_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyestate.server.edge._CHECK_SECONDS", 0.005)


def bodies_read(edge: Edge) -> int:
    return sum(active.upload.complete for active in edge._active)


def watched(edge: Edge) -> bool:
    return any(getattr(active, "watch", None) for active in edge._active)


def requests_counted(route: str, status: int) -> float:
    metrics.publish_requests()
    return REGISTRY.get_sample_value("eyestate_requests_total", {"route": route, "status": str(status)}) or 0


def rejected_counted(reason: str) -> float:
    return REGISTRY.get_sample_value("eyestate_rejected_total", {"reason": reason}) or 0


@pytest.mark.usefixtures("often_swept")
class TestSweep:
    def test_requests_in_time_are_let_alone(self) -> None:
        async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
            edge._timeout = 60
            exchange = Exchange(edge, "/gated", b"one ", b"two ", b"three")
            await asyncio.sleep(0.3)  # dozens of sweeps
            assert edge.active == 1
            exchange.gate.set()
            await exchange.task
            assert exchange.status == 200
            assert exchange.sent[1]["body"] == b"one two three"

        with_edge(work)

    def test_a_client_that_leaves_is_noticed_and_gets_nothing(self) -> None:
        async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
            edge._timeout = 60
            before = requests_counted("/slow", 499)
            exchange = Exchange(edge, "/slow", b"x")
            await until(lambda: watched(edge))
            exchange.leaves.set()
            await exchange.task
            assert exchange.task.cancelling() == 0  # nothing above it takes the request for a cancelled one
            assert slow.ended == ["cancelled"]
            assert exchange.sent == []
            assert requests_counted("/slow", 499) == before + 1

        with_edge(work)

    def test_a_client_that_leaves_before_its_body_is_complete_is_no_error(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
            before = requests_counted("/echo", 499)
            exchange = Exchange(edge, "/echo")
            exchange.leaves.set()
            await exchange.task
            assert exchange.sent == []
            assert requests_counted("/echo", 499) == before + 1

        with_edge(work)
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]

    def test_the_client_is_not_watched_while_it_takes_its_answer(self) -> None:
        async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
            edge._timeout = 60
            exchange = Exchange(edge, "/gated", b"x")
            exchange.takes.clear()
            await until(lambda: watched(edge) and exchange.receiving)
            exchange.gate.set()
            await until(lambda: not exchange.receiving)
            exchange.takes.set()
            await exchange.task
            assert exchange.status == 200
            assert len(exchange.sent) == 2

        with_edge(work)

    def test_an_answer_that_is_not_taken_in_time_is_given_up(self) -> None:
        async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
            edge._timeout = 60
            before = requests_counted("/echo", 200)
            exchange = Exchange(edge, "/echo", b"x")
            exchange.takes.clear()
            await until(lambda: bodies_read(edge) == 1)
            edge._timeout = 0.01
            await asyncio.wait_for(exchange.task, 10)
            assert not exchange.task.cancelled()
            assert exchange.sent == []
            assert requests_counted("/echo", 200) == before + 1

        with_edge(work)

    def test_all_that_are_late_are_given_up(self) -> None:
        async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
            edge._timeout = 60
            exchanges = [Exchange(edge, "/slow", b"x") for _ in range(3)]
            await until(lambda: bodies_read(edge) == 3)
            edge._timeout = 0.01
            await asyncio.wait_for(asyncio.gather(*(exchange.task for exchange in exchanges)), 10)
            assert [exchange.status for exchange in exchanges] == [504] * 3
            assert [exchange.task.cancelling() for exchange in exchanges] == [0] * 3
            assert b"retry-after" not in exchanges[0].headers
            assert b"connection" not in exchanges[0].headers
            assert b"0.01 s" in exchanges[0].sent[1]["body"]

        with_edge(work)

    def test_the_error_of_a_late_request_is_sent_however_slowly_it_is_taken(self) -> None:
        async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
            edge._timeout = 60
            exchange = Exchange(edge, "/slow", b"x")
            exchange.takes.clear()
            await until(lambda: bodies_read(edge) == 1)
            edge._timeout = 0.01
            await until(lambda: bool(slow.ended))
            await asyncio.sleep(0.1)  # many sweeps
            exchange.takes.set()
            await exchange.task
            assert exchange.status == 504

        with_edge(work)


def test_a_cancellation_from_outside_is_passed_on() -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        exchange = Exchange(edge, "/slow", b"x")
        await until(lambda: bodies_read(edge) == 1)
        exchange.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange.task
        assert exchange.sent == []
        assert slow.ended == ["cancelled"]

    with_edge(work)


def test_a_target_needs_a_key_unless_it_says_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("right-key")
    target = Target(echo, "/v2", error_response)

    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        edge._find = lambda scope: target
        assert (await client.post("/v2", content=b"x")).status_code == 401

    with_edge(work, ApiKeys(file))


def test_what_is_not_http_is_the_other_applications() -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        async def receive() -> Message:
            raise AssertionError

        async def send(message: Message) -> None:
            raise AssertionError

        await edge({"type": "lifespan"}, receive, send)

    with_edge(work)


def test_requests_and_their_seconds_are_counted() -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        await client.post("/echo", content=b"x")
        await client.post("/full")
        await client.post("/broken")
        await client.post("/slow", content=b"x")

    expected = [("/echo", 200), ("/full", 429), ("/broken", 500), ("/slow", 504)]
    seconds = {route: metrics.REQUEST_SECONDS.labels(route) for route, _ in expected}
    for histogram in seconds.values():
        histogram.publish()
    counts = [requests_counted(route, status) for route, status in expected]
    codes = [error.code for error in (OverloadedError, EyestateError, DeadlineExceededError)]
    refused = [rejected_counted(code) for code in codes]
    with_edge(work)
    assert [requests_counted(route, status) - 1 for route, status in expected] == counts
    assert [rejected_counted(code) - 1 for code in codes] == refused
    noted = {route: histogram.publish().tolist() for route, histogram in seconds.items()}
    assert {route: len(values) for route, values in noted.items()} == {route: 1 for route, _ in expected}
    assert TIMEOUT < noted["/slow"][0] < 60
    assert 0 < noted["/echo"][0] < 60


@pytest.mark.parametrize(
    ("path", "content", "level", "message"),
    [
        ("/broken", b"", logging.ERROR, "POST /broken 500"),
        ("/slow", b"x", logging.ERROR, "POST /slow 504"),
        ("/echo", b"", logging.INFO, "POST /echo 400"),
        ("/echo", bytes(2000), logging.INFO, "POST /echo 413"),
        ("/echo", b"x", logging.DEBUG, "POST /echo 200"),
    ],
)
def test_a_request_is_logged_by_how_it_ended(
    caplog: pytest.LogCaptureFixture, path: str, content: bytes, level: int, message: str
) -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        await client.post(path, content=content, headers={"X-Request-ID": "r1"})

    with caplog.at_level(level, logger="eyestate.requests"):
        with_edge(work)
    (record,) = (r for r in caplog.records if r.name == "eyestate.requests" and not r.exc_info)
    assert (record.levelno, record.getMessage()) == (level, message)
    logged = {key: record.__dict__[key] for key in ("route", "status", "request_id", "client")}
    assert logged == {"route": path, "status": int(message[-3:]), "request_id": "r1", "client": "127.0.0.1"}
    assert (record.__dict__["seconds"] > TIMEOUT) == (path == "/slow")


def test_refusals_for_overload_are_logged_once_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        for _ in range(3):
            await client.post("/full")
        edge._log_overload()
        edge._log_overload()

    with caplog.at_level(logging.DEBUG, logger="eyestate.requests"):
        with_edge(work)
    records = [record for record in caplog.records if record.name == "eyestate.requests"]
    assert {(record.levelname, record.getMessage()) for record in records} == {("WARNING", "overloaded")}
    assert sum(record.__dict__["refused"] for record in records) == 3
    assert all(record.__dict__["refused"] for record in records)


def test_the_longest_id_is_kept_and_an_own_one_has_16_digits() -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        longest = "x" * 128
        answer = await client.post("/echo", content=b"x", headers={"X-Request-ID": longest})
        assert answer.headers["x-request-id"] == longest
        answer = await client.post("/full")
        assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])

    with_edge(work)


def test_the_scheme_of_a_key_is_case_insensitive_and_spaces_around_it_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("right-key")

    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        for value, status in [(b"BEARER right-key", 200), (b"Bearer   right-key  ", 200), (b"Bearerright-key", 401)]:
            exchange = Exchange(edge, "/echo", b"x", headers=[(b"authorization", value)])
            await exchange.task
            assert exchange.status == status
        assert b"www-authenticate" in exchange.headers
        exchange = Exchange(edge, "/echo", b"x", headers=[(b"referer", b"Bearer right-key")])
        await exchange.task
        assert exchange.status == 401

    with_edge(work, ApiKeys(file))


def test_only_while_it_drains_connections_are_closed() -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        assert "connection" not in (await client.post("/echo", content=b"x")).headers
        edge.rejecting = True
        answer = await client.post("/echo", content=b"x")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "connection" not in answer.headers
        edge.draining = True
        assert (await client.post("/probe", content=b"x")).headers["connection"] == "close"

    with_edge(work)


class Traces(Tracing):
    """Notes spans instead of sending them."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []
        self.ended: list[int] = []

    def begin(self, scope: MutableMapping[str, Any], route: str, request_id: str) -> Span:
        self.begun.append((route, request_id))
        return NonRecordingSpan(INVALID_SPAN_CONTEXT)

    def end(self, span: Span, status: int, received: float, seconds: float) -> None:
        self.ended.append(status)


def test_each_request_is_a_span_with_its_status() -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        edge.tracing = traces = Traces()
        for path in ("/echo", "/full", "/broken"):
            await client.post(path, content=b"x", headers={"X-Request-ID": path[1:]})
        assert traces.begun == [("/echo", "echo"), ("/full", "full"), ("/broken", "broken")]
        assert traces.ended == [200, 429, 500]

    with_edge(work)
