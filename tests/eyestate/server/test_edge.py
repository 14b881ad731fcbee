"""The edge around small endpoints, under a real HTTP server in this process."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from eyestate.errors import OverloadedError
from eyestate.server import uploads
from eyestate.server.auth import ApiKeys
from eyestate.server.edge import Edge, Endpoint, Target
from eyestate.server.responses import refusal

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


async def until(reached: Callable[[], bool]) -> None:
    """Wait for what comes about while the loop goes round."""
    async with asyncio.timeout(10):
        while not reached():
            await asyncio.sleep(0.01)


async def otherwise(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await PlainTextResponse("from the other application", 418)(scope, receive, send)


def with_edge(work: Callable[[Edge, httpx.AsyncClient, Slow], Awaitable[None]], keys: ApiKeys | None = None) -> None:
    slow = Slow()
    endpoints: dict[str, Endpoint] = {
        "/echo": echo,
        "/full": full,
        "/broken": broken,
        "/slow": slow,
        "/probe": echo,
    }
    targets = {
        path: Target(endpoint, path, refusal, operational=path == "/probe") for path, endpoint in endpoints.items()
    }

    async def run() -> None:
        edge = Edge(lambda scope: targets.get(scope["path"]), otherwise, timeout=TIMEOUT, keys=keys)
        server = uvicorn.Server(uvicorn.Config(edge, log_config=None, lifespan="off"))
        listener = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        sweeping = asyncio.create_task(edge.sweep())
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
        assert b"connection: close" in head.lower()
        assert b"request_timeout" in await reader.read()
        writer.close()

    with_edge(work)


def test_a_client_that_leaves_frees_its_place() -> None:
    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
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
        edge.refusing = True
        answer = await client.post("/echo", content=b"x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await client.post("/probe", content=b"x")).text == "x"

    with_edge(work)


def test_only_those_with_a_key_are_answered(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# for the tests\n\nright-key\nsecond\n")

    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        async def status(**headers: str) -> int:
            return (await client.post("/echo", content=b"x", headers=headers)).status_code

        assert await status(Authorization="Bearer right-key") == 200
        assert await status(Authorization="bearer second") == 200
        assert await status(**{"X-API-Key": "right-key"}) == 200
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
    monkeypatch.setattr("eyestate.server.edge.MAX_ACTIVE", 2)

    async def work(edge: Edge, client: httpx.AsyncClient, slow: Slow) -> None:
        waiting = [asyncio.create_task(client.post("/slow", content=b"x")) for _ in range(2)]
        await until(lambda: edge.active == 2)
        refused = [await client.post("/echo", content=b"x") for _ in range(5)]
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {(429, "1")}
        assert (await client.post("/probe", content=b"x")).status_code == 200
        await asyncio.gather(*waiting)
        assert (await client.post("/echo", content=b"x")).status_code == 200

    with caplog.at_level(logging.INFO, logger="eyestate.requests"):
        with_edge(work)
    assert sum(record.__dict__.get("refused", 0) for record in caplog.records) == 5


def test_many_large_bodies_do_not_take_all_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = uploads.Bodies(limit=1500)
    monkeypatch.setattr(uploads, "BODIES", bodies)
    monkeypatch.setattr("eyestate.server.edge.BODIES", bodies)

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
