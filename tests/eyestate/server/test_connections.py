"""Connections over real sockets, to a small application under uvicorn in this process."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

import pytest
import uvicorn
import uvloop
from prometheus_client.registry import REGISTRY
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.config import HTTP_PROTOCOLS

from eyestate.server import connections
from eyestate.server.connection_limit import ConnectionLimit
from eyestate.server.connections import MAX_HEAD_BYTES, MAX_HEADERS, MAX_PIPELINED, Connection
from eyestate.server.hosts import AllowedHosts
from eyestate.server.sending import send_response
from eyestate.settings import Settings
from tests.raw_http import Client

TIMEOUT = 1.0
KEEP_ALIVE = 1.5
LIMIT = 8
GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
LARGE = 32 * 2**20  # more than the system takes for a client that does not read


class Application:
    """Echoes bodies; ``/slow`` takes its time, ``/large`` answers with much, ``/early`` without reading the body."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self.connections: set[object] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.headers.append(dict(request.headers))
        match scope["path"]:
            case "/slow":
                await asyncio.sleep(0.3)
                answer = PlainTextResponse("slow")
            case "/watched":  # as the edge watches whether the client is there
                await request.body()
                watch = asyncio.ensure_future(receive())
                await asyncio.sleep(0.3)
                watch.cancel()
                answer = PlainTextResponse("watched")
            case "/large":
                answer = PlainTextResponse(bytes(LARGE))
            case "/early":
                answer = PlainTextResponse("early")
            case _:
                answer = PlainTextResponse(await request.body())
        await send_response(answer, scope, receive, send)


class Gate:
    """Refuses everything but ``/slow`` while it is closed."""

    def __init__(self) -> None:
        self.closed = True
        self.refused = 0

    def expect(self, client: str) -> str | None:
        assert client == "127.0.0.1"
        return "full" if self.closed else None

    def full(self, client: str) -> str | None:
        return self.expect(client)

    def refusal(self, scope: Scope, why: str) -> bytes | None:
        if scope["path"] == "/slow":
            return None
        self.refused += 1
        return b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\n" + why.encode()

    def end_slowest_upload(self) -> bool:
        return False


Connect = Callable[..., Awaitable[Client]]  # from an address, 127.0.0.1 by default


@pytest.fixture
def talk() -> Callable[..., None]:
    """Runs a conversation with a server; all connections must be gone when it ends."""

    def run(work: Callable[[Application, Connect], Awaitable[None]], gate: Gate | None = None) -> None:
        async def serve() -> None:
            application = Application()
            protocol = cast(
                "type[Connection]",
                partial(
                    Connection,
                    timeout=TIMEOUT,
                    keep_alive=KEEP_ALIVE,
                    hosts=AllowedHosts((), enforced=True),
                    limit=ConnectionLimit(lambda: False, LIMIT),
                    gate=gate,
                ),
            )
            server = uvicorn.Server(uvicorn.Config(application, http=protocol, log_config=None, lifespan="off"))
            application.connections = cast("set[object]", server.server_state.connections)
            listener = socket.create_server(("127.0.0.1", 0))
            serving = asyncio.create_task(server._serve(sockets=[listener]))
            clients: list[Client] = []

            async def connect(address: str = "127.0.0.1") -> Client:
                streams = await asyncio.open_connection(*listener.getsockname(), local_addr=(address, 0))
                clients.append(Client(*streams))
                return clients[-1]

            try:
                await work(application, connect)
            finally:
                for client in clients:
                    client.close()
                server.should_exit = True
                await asyncio.wait_for(serving, 20)
                listener.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    return run


Talk = Callable[..., None]


def test_requests_are_answered_however_they_are_cut(talk: Talk) -> None:
    request = POST + b"X-Long: " + b"a" * 60_000 + b"\r\nContent-Length: 5\r\n\r\nhello"

    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        choose = random.Random(2)
        for _ in range(10):
            cuts = sorted(choose.sample(range(1, len(request)), 3))
            await client.send(*(request[a:b] for a, b in zip([0, *cuts], [*cuts, len(request)], strict=True)))
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, b"hello")
        await client.send(request * 3)
        assert [(await client.answer()).body for _ in range(3)] == [b"hello"] * 3
        assert {len(headers["x-long"]) for headers in application.headers} == {60_000}

    talk(work)


def test_bodies_may_be_longer_than_heads(talk: Talk) -> None:
    body = random.Random(3).randbytes(3 * 2**20)

    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        await client.send(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert (await client.answer()).body == body
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:200_000], body[200_000:]))
        await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert (await client.answer()).body == body

    talk(work)


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(GET + b"X: " + b"a" * 2**22, id="endless header"),
        pytest.param(GET + b"X: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n", id="whole but too long"),
        pytest.param(GET + b"a: b\r\n" * 2**17, id="headers without end"),
        pytest.param(GET + b"a:\r\n" * MAX_HEADERS + b"\r\n", id="very many headers"),
        pytest.param(b"GET /" + b"a" * 2**20, id="endless path"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 2**17, id="endless trailers"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 2**20, id="endless chunk extension"),
    ],
)
def test_heads_over_the_limit_are_refused(talk: Talk, request_bytes: bytes) -> None:
    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        sending = asyncio.create_task(client.send(request_bytes))
        answer = await client.answer()
        assert (answer.status, answer.code) == (431, "head_too_large")
        assert answer.headers["connection"] == "close"
        assert len(answer.headers["x-request-id"]) == 16
        await client.closed()
        await asyncio.wait([sending])
        sending.exception()  # it may not have got rid of all

    talk(work)


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(random.Random(5).randbytes(4000), id="noise"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", id="path beyond ASCII"),
        pytest.param(b"GET /echo HTTP/1.1\r\nbad header\r\n\r\n", id="header without colon"),
        pytest.param(POST + b"Content-Length: -1\r\n\r\n", id="negative length"),
        pytest.param(POST + b"Content-Length: \r\n\r\n", id="no length"),
        pytest.param(POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", id="length of many digits"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", id="bad chunk"),
    ],
)
def test_what_is_no_http_is_refused(talk: Talk, request_bytes: bytes) -> None:
    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        await client.send(request_bytes)
        answer = await client.answer()
        assert (answer.status, answer.code) == (400, "malformed_request")
        assert answer.headers["connection"] == "close"
        await client.closed()

    talk(work)


def test_what_came_before_garbage_is_answered(talk: Talk) -> None:
    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        await client.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" * 2 + b"garbage\r\n\r\n")
        assert [(await client.answer()).body for _ in range(2)] == [b"slow"] * 2
        await client.closed()

    talk(work)


@pytest.mark.parametrize("beginning", [b"G", GET, GET + b"X: "], ids=["one byte", "one header", "within a header"])
def test_a_head_that_does_not_come_to_its_end_is_given_up(talk: Talk, beginning: bytes) -> None:
    async def work(application: Application, connect: Connect) -> None:
        fresh, used = await connect(), await connect()
        await used.send(GET + b"\r\n")
        assert (await used.answer()).status == 200
        await asyncio.sleep(TIMEOUT / 2)  # to have been idle does not count
        started = time.perf_counter()
        for client in (fresh, used):
            await client.send(beginning)
        for client in (fresh, used):
            answer = await client.answer()
            assert (answer.status, answer.code) == (408, "request_timeout")
            assert time.perf_counter() - started > 0.9 * TIMEOUT
            await client.closed()

    talk(work)


def test_a_head_that_trickles_in_is_given_up(talk: Talk) -> None:
    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        await client.send(GET)
        trickle = asyncio.create_task(client.send(*[b"a: b\r\n"] * 1000, pause=0.05))
        assert (await client.answer()).status == 408
        await client.closed()
        trickle.cancel()

    talk(work)


def test_idle_connections_are_closed(talk: Talk) -> None:
    async def work(application: Application, connect: Connect) -> None:
        silent, used, blank = await connect(), await connect(), await connect()
        await used.send(GET + b"\r\n")
        assert (await used.answer()).status == 200
        await blank.send(b"\r\n")
        seconds = await asyncio.gather(silent.closed(), blank.closed(), used.closed())
        assert all(least < each < least + 5 for each, least in zip(seconds, (0.5, 0.5, 0.95 * KEEP_ALIVE), strict=True))

    talk(work)


def test_empty_lines_do_not_keep_a_connection(talk: Talk) -> None:
    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        trickle = asyncio.create_task(client.send(*[b"\r\n"] * 1000, pause=0.05))
        await client.closed()
        trickle.cancel()

    talk(work)


def test_a_connection_in_use_stays(talk: Talk) -> None:
    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        began = time.perf_counter()
        while time.perf_counter() - began < 2 * TIMEOUT:
            await client.send(GET[:10], GET[10:] + b"\r\n")
            assert (await client.answer()).status == 200
            await asyncio.sleep(0.1)

    talk(work)


def test_the_rest_of_a_body_after_its_answer_does_not_keep_a_connection(talk: Talk) -> None:
    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        await client.send(b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        assert (await client.answer()).body == b"early"
        trickle = asyncio.create_task(client.send(*[b"x"] * 1000, pause=0.05))
        await client.closed()
        trickle.cancel()

    talk(work)


def test_a_client_that_does_not_read_its_answer_is_given_up(talk: Talk) -> None:
    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        client._reader._transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(TIMEOUT / 2)
        assert len(application.connections) == 1
        deadline = time.monotonic() + 20
        while application.connections and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert not application.connections

    talk(work)


def test_refusals_are_counted_and_logged(talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("eyestate_rejected_total", {"reason": "malformed_request"}) or 0

    async def work(application: Application, connect: Connect) -> None:
        before = counted()
        client = await connect()
        await client.send(b"private\r\n\r\n")
        answer = await client.answer()
        assert counted() == before + 1
        (record,) = (record for record in caplog.records if record.name == "eyestate.requests")
        assert record.getMessage() == "malformed_request 400"
        assert record.__dict__["request_id"] == answer.headers["x-request-id"]
        assert record.__dict__["client"] == "127.0.0.1"

    with caplog.at_level("INFO", logger="eyestate.requests"):
        talk(work)


def test_too_many_connections_cost_the_one_that_is_idle_longest(talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
    async def work(application: Application, connect: Connect) -> None:
        busy = await connect()
        await busy.send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        clients = [await connect(f"127.0.0.{2 + number % 2}") for number in range(LIMIT - 1)]
        for client in [*clients[1:], clients[0]]:
            await client.send(GET + b"\r\n")
            assert (await client.answer()).status == 200
        newest = [await connect() for _ in range(3)]
        for client in clients[1:4]:
            assert await client.closed() < TIMEOUT / 2
        assert (await busy.answer()).body == b"slow"
        for client in (busy, clients[0], *clients[4:], *newest):
            await client.send(GET + b"\r\n")
            assert (await client.answer()).status == 200

    with caplog.at_level("WARNING", logger="eyestate.requests"):
        talk(work)
    (record,) = (record for record in caplog.records if record.getMessage() == "too many connections")
    assert record.__dict__["limit"] == LIMIT


def test_one_address_gets_three_quarters_of_the_connections(talk: Talk) -> None:
    async def work(application: Application, connect: Connect) -> None:
        other = await connect("127.0.0.2")
        greedy = [await connect() for _ in range(LIMIT * 3 // 4)]
        await greedy[0].send(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        newest = [await connect() for _ in range(2)]
        for client in greedy[1:3]:
            assert await client.closed() < TIMEOUT / 2
        for client in (other, *greedy[3:], *newest):
            await client.send(GET + b"\r\n")
            assert (await client.answer()).status == 200
        assert (await greedy[0].answer()).body == b"slow"

    talk(work)


BODIES = [
    b"Content-Length: 5\r\n\r\nhello",
    b"Content-Length: %d\r\n\r\n%b" % (len(GET) + 2, GET + b"\r\n"),
    b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n",
    b"\r\n",
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("pieces", [1, 40])
def test_a_request_without_a_place_is_refused_by_its_head_alone(talk: Talk, body: bytes, pieces: int) -> None:
    gate = Gate()

    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        request = POST + body
        size = -(-len(request) // pieces)
        for number in (1, 2):
            await client.send(*(request[at : at + size] for at in range(0, len(request), size)), pause=0.001)
            assert await client.answer() == (429, {"content-length": "4"}, b"full")
            assert gate.refused == number
        assert application.headers == []
        gate.closed = False
        await client.send(request)
        assert (await client.answer()).status == 200

    talk(work, gate)


def test_refused_requests_come_in_order_with_those_that_are_answered(talk: Talk) -> None:
    gate = Gate()

    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        await client.send((GET + b"\r\n") * 3 + b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n" + GET + b"\r\n")
        assert [(await client.answer()).body for _ in range(4)] == [b"full"] * 3 + [b"slow"]
        assert (await client.answer()).status == 200  # behind it, so that the application has to answer
        await client.send(GET + b"\r\n")
        assert (await client.answer()).body == b"full"
        assert await client.closed() > 0.8 * KEEP_ALIVE

    talk(work, gate)


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Connection: close\r\nContent-Length: 1\r\n\r\nx",
        POST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        b"POST /echo HTTP/1.0\r\nContent-Length: 1\r\n\r\nx",
        b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%65cho HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_needs_more_than_an_answer_is_left_to_the_application(talk: Talk, request_bytes: bytes) -> None:
    gate = Gate()

    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        await client.send(request_bytes)
        deadline = time.monotonic() + 10
        while not application.headers and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        assert len(application.headers) == 1

    talk(work, gate)
    assert not gate.refused


def test_a_client_that_leaves_before_pipelined_answers(talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        await client.send(b"GET /watched HTTP/1.1\r\nHost: x\r\n\r\n" + GET + b"\r\n")
        await asyncio.sleep(0.1)
        client.close()
        await asyncio.sleep(0.5)

    talk(work)
    assert "Exception in ASGI application" not in caplog.text


def test_a_flood_of_pipelined_requests_ends_the_connection(talk: Talk) -> None:
    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        await client.send((GET + b"\r\n") * (MAX_PIPELINED * 10))
        for _ in range(MAX_PIPELINED + 1):
            assert (await client.answer()).status == 200
        assert await client.closed() < TIMEOUT / 2
        assert len(application.headers) == MAX_PIPELINED + 1
        patient = await connect()
        for _ in range(3):
            await patient.send((GET + b"\r\n") * MAX_PIPELINED)
            for _ in range(MAX_PIPELINED):
                assert (await patient.answer()).status == 200

    talk(work)


@pytest.mark.parametrize(
    "head",
    [b"GET /echo HTTP/1.1\r\nHost: rebound.example\r\n", b"GET http://rebound.example/echo HTTP/1.1\r\nHost: x\r\n"],
    ids=["Host", "target"],
)
def test_a_host_that_is_not_allowed_is_refused(talk: Talk, head: bytes) -> None:
    async def work(application: Application, connect: Connect) -> None:
        client = await connect()
        await client.send(head + b"\r\n")
        answer = await client.answer()
        assert (answer.status, answer.code) == (421, "host_not_allowed")
        await client.closed()

    talk(work)


def test_uvicorn_takes_it_where_nothing_else_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "127.0.0.1")
    connections.install(
        Settings(timeout=TIMEOUT, keep_alive=KEEP_ALIVE, trusted_proxies="10.0.0.0/8, 192.0.2.1"), Gate(), None
    )
    config = uvicorn.Config(Application())
    config.load()
    chosen = cast("partial[Connection]", config.http_protocol_class)
    assert chosen.func is Connection
    assert (chosen.keywords["timeout"], chosen.keywords["keep_alive"]) == (TIMEOUT, KEEP_ALIVE)
    assert config.forwarded_allow_ips == "10.0.0.0/8,192.0.2.1/32"
    assert chosen.keywords["gate"] is None  # whose address it is, the application finds out
