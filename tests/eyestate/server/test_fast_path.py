"""Requests on the fast path, which are answered like all others: by the real application, over real sockets."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import socket
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
import uvloop
from PIL import Image
from prometheus_client.registry import REGISTRY
from starlette.applications import Starlette
from uvicorn.config import HTTP_PROTOCOLS

from eyestate.arrays import Pixels
from eyestate.bundle import load_bundle
from eyestate.errors import DeviceError
from eyestate.server import connections, fast_path, metrics, processes
from eyestate.server.admission import Places
from eyestate.server.app import create_app, wrap
from eyestate.server.batching import Queue, Submission
from eyestate.settings import Settings
from tests.bundles import write_bundle
from tests.images import encoded
from tests.raw_http import Answer, Client


def encode(pixels: Pixels, kind: str) -> bytes:
    return encoded(Image.fromarray(pixels), kind)


CROP = encode(np.full((24, 24), 200, np.uint8), "PNG")
JPEG = encode(np.full((24, 24), 30, np.uint8), "JPEG")
LARGE = encode(np.zeros((200, 200), np.uint8), "PNG")  # few bytes, many pixels


def request(body: bytes, *headers: bytes, path: bytes = b"/v1/score", content_type: bytes = b"image/png") -> bytes:
    lines = [b"POST %b HTTP/1.1" % path, b"Host: 127.0.0.1", b"Content-Length: %d" % len(body), *headers]
    lines += [b"Content-Type: " + content_type] if content_type else []
    return b"\r\n".join([*lines, b"", body])


class Held(Queue):
    """Holds what is submitted until the test answers it."""

    batch_size = 1

    def __init__(self) -> None:
        self.submissions: list[Submission] = []
        self.forgotten: list[Submission] = []

    @property
    def waiting(self) -> int:
        return len(self.submissions)

    def enqueue(self, submission: Submission) -> None:
        submission.held_by = self  # type: ignore[assignment]  # no Batcher, but it forgets like one
        self.submissions.append(submission)

    def forget(self, submission: Submission) -> None:
        self.forgotten.append(submission)

    def close(self) -> None:
        pass

    async def next(self, number: int = 1) -> Submission:
        """The last of so many submissions."""
        await until(lambda: len(self.submissions) >= number)
        return self.submissions[number - 1]


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not reached():
            await asyncio.sleep(0.005)


@dataclasses.dataclass
class Service:
    """The application under uvicorn."""

    app: Starlette
    connections: set[Any]
    address: tuple[str, int]
    clients: list[Client]

    async def connect(self) -> Client:
        self.clients.append(Client(*await asyncio.open_connection(*self.address)))
        return self.clients[-1]

    async def ask(self, *pieces: bytes) -> Answer:
        client = await self.connect()
        await client.send(*pieces)
        return await client.answer()

    def hold(self) -> Held:
        """Have nothing scored from now on but what the test answers."""
        held = Held()
        self.serve(batcher=held)
        return held

    def serve(self, **changes: Any) -> None:
        runtime = dataclasses.replace(self.app.state.runtime, **changes)
        self.app.state.runtime = self.app.state.fast_path.runtime = runtime


Work = Callable[[Service], Awaitable[None]]
Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs work with a service; with ``fast=False`` one without the fast path."""
    monkeypatch.setenv("EYESTATE_DEVICE", "cpu")
    monkeypatch.setitem(HTTP_PROTOCOLS, "auto", HTTP_PROTOCOLS["auto"])
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "")
    bundle = load_bundle(write_bundle(tmp_path / "models"))

    def run(work: Work, *, fast: bool = True, **settings: Any) -> None:
        async def serve() -> None:
            chosen = Settings(**settings)
            app = create_app(chosen, bundle)
            served = wrap(app, app, chosen)
            connections.install(chosen, app.state.edge, app.state.fast_path if fast else None)
            server = uvicorn.Server(
                uvicorn.Config(served, log_config=None, access_log=False, lifespan="off", server_header=False)
            )
            listener = socket.create_server(("127.0.0.1", 0))
            service = Service(app, server.server_state.connections, listener.getsockname(), [])
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(app.router.lifespan_context(app))
                serving = asyncio.create_task(server._serve(sockets=[listener]))
                try:
                    await work(service)
                    await until(lambda: not app.state.edge.active)
                finally:
                    for client in service.clients:
                        client.close()
                    server.should_exit = True
                    await asyncio.wait_for(serving, 20)
                    listener.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())
        gc.unfreeze()  # which the application froze when it began

    return run


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each request that looked plain was answered on the fast path."""
    taken: list[bool] = []
    begin = fast_path.FastPath.begin

    def noting(self: fast_path.FastPath, request: fast_path.DirectRequest, body: bytes) -> bool:
        taken.append(begin(self, request, body))
        return taken[-1]

    monkeypatch.setattr(fast_path.FastPath, "begin", noting)
    return taken


def counted(status: int) -> float:
    metrics.publish_requests()
    labels = {"route": "/v1/score", "status": str(status)}
    return REGISTRY.get_sample_value("eyestate_requests_total", labels) or 0


@pytest.mark.parametrize(
    ("sent", "taken_here"),
    [
        (request(CROP), [True]),
        (request(JPEG, content_type=b"IMAGE/JPEG; charset=x"), [True]),
        (request(CROP, content_type=b""), [True]),
        (request(CROP, content_type=b"application/octet-stream"), [True]),
        (request(CROP, b"X-Request-ID: mine", b"Accept: */*"), [True]),
        (request(CROP, b"X-Request-ID: n\xc3\xb6"), [True]),
        (request(b"no image"), [True]),
        (request(JPEG[:-20]), [True]),
        (request(CROP[:60]), [True]),
        (request(encode(np.zeros((7, 24), np.uint8), "PNG")), [True]),
        (request(LARGE), [False]),
        (request(b""), []),
        (request(bytes(9_000)), []),
        (request(CROP, content_type=b"text/plain"), [False]),
        (request(CROP, b"Content-Encoding: br"), [False]),
        (request(CROP, b"Content-Type: text/plain"), [False]),
        (request(CROP, path=b"/v1/score?quality=false"), []),
        (request(CROP, path=b"/v1/score?quality=true"), []),
        (request(CROP, b"Expect: 100-continue"), []),
        (request(CROP, b"Connection: close"), []),
        (b"POST /v1/score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", []),
        (b"GET /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", []),
    ],
)
def test_answers_are_those_of_the_other_path(run: Run, taken: list[bool], sent: bytes, taken_here: list[bool]) -> None:
    answers: list[Answer] = []

    async def work(service: Service) -> None:
        client = await service.connect()
        await client.send(sent)
        answer = await client.answer()
        if answer.status == 100:
            answer = await client.answer()
        if b"mine" not in sent:
            assert len(answer.headers.pop("x-request-id")) == 16
        del answer.headers["date"]
        answers.append(answer)

    run(work)
    assert taken == taken_here
    run(work, fast=False)
    assert answers[0] == answers[1]
    assert list(answers[0].headers) == list(answers[1].headers)  # in the same order, too


def test_one_connection_takes_any_mixture(run: Run, taken: list[bool]) -> None:
    """Answers come in order, also where requests come together, in pieces or before the answers before them."""

    async def work(service: Service) -> None:
        client = await service.connect()
        requests = [
            request(CROP, b"X-Request-ID: 0"),
            request(LARGE, b"X-Request-ID: 1"),
            request(b"x", b"X-Request-ID: 2"),
            request(CROP, b"X-Request-ID: 3", path=b"/v1/score?quality=true"),
            request(CROP, b"X-Request-ID: 4"),
        ]
        await client.send(b"".join(requests))
        assert [(await client.answer()).headers["x-request-id"] for _ in requests] == [*"01234"]
        for cut in range(1, len(requests[0]), 31):
            await client.send(requests[0][:cut], requests[0][cut:], pause=0.005)
            assert (await client.answer()).status == 200

    run(work)
    assert taken[0]
    assert all(taken[3:])


@pytest.mark.parametrize(("pause", "taken_here"), [(0.05, [True]), (0.6, [])])
def test_a_body_may_come_behind_its_head(run: Run, taken: list[bool], pause: float, taken_here: list[bool]) -> None:
    """As many clients send it; where it takes long, the limits for slow bodies apply."""

    def received() -> float:
        name = "eyestate_phase_duration_seconds_sum"
        return REGISTRY.get_sample_value(name, {"phase": "receive"}) or 0

    async def work(service: Service) -> None:
        monitor = service.app.state.runtime.monitor
        client = await service.connect()
        await client.send(request(JPEG))
        await client.answer()
        del taken[:]
        monitor.publish()
        before = received()
        sent = request(CROP)
        await client.send(sent[: -len(CROP)], CROP[:20], CROP[20:], pause=pause)
        assert (await client.answer()).status == 200
        monitor.publish()
        assert 0.9 * pause < received() - before < 10  # until the last piece
        await asyncio.sleep(0.5)  # no timer of the body is left
        await client.send(request(JPEG))
        assert (await client.answer()).status == 200
        del taken[-1:]

    run(work)
    assert taken == taken_here


def test_a_body_that_is_awaited_while_its_client_leaves_or_the_service_stops(run: Run) -> None:
    async def work(service: Service) -> None:
        before = counted(499)
        client = await service.connect()
        await client.send(request(CROP)[:-10])
        await asyncio.sleep(0.05)
        client.close()
        await until(lambda: counted(499) == before + 1)

        client = await service.connect()
        await client.send(request(CROP)[:-10])
        await asyncio.sleep(0.05)
        for connection in service.connections:
            connection.shutdown()
        await client.send(request(CROP)[-10:])
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")

    run(work)


def test_a_request_waits_for_the_answer_before_it(run: Run) -> None:
    async def work(service: Service) -> None:
        held = service.hold()
        client = await service.connect()
        await client.send(request(CROP, b"X-Request-ID: 0") + request(CROP, b"X-Request-ID: 1"))
        first = await held.next()
        await asyncio.sleep(0.05)
        assert len(held.submissions) == 1
        first.end(np.array([0.25], np.float32))
        (await held.next(2)).end(np.array([0.75], np.float32))
        answers = [await client.answer(), await client.answer()]
        assert [answer.headers["x-request-id"] for answer in answers] == ["0", "1"]
        assert [b"0.25" in answers[0].body, b"0.75" in answers[1].body] == [True, True]

    run(work)


def test_what_follows_it_is_refused_after_its_answer(run: Run) -> None:
    async def work(service: Service) -> None:
        held = service.hold()
        client = await service.connect()
        await client.send(request(CROP) + b"no HTTP\r\n\r\n")
        (await held.next()).end(np.array([0.5], np.float32))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.closed() < 5

    run(work)


def test_a_client_that_leaves_frees_its_place(run: Run) -> None:
    async def work(service: Service) -> None:
        before = counted(499)
        held = service.hold()
        client = await service.connect()
        await client.send(request(CROP))
        submission = await held.next()
        assert service.app.state.edge.active == 1
        client.close()
        await until(lambda: held.forgotten == [submission])
        assert service.app.state.edge.active == 0
        assert counted(499) == before + 1

    run(work)


def test_a_late_answer_is_504(run: Run) -> None:
    async def work(service: Service) -> None:
        held = service.hold()
        client = await service.connect()
        await client.send(request(CROP))
        answer = await client.answer()
        assert (answer.status, answer.code) == (504, "deadline_exceeded")
        assert held.forgotten == held.submissions
        await client.send(request(CROP))  # on the same connection
        (await held.next(2)).end(np.array([0.5], np.float32))
        assert (await client.answer()).status == 200

    run(work, timeout=0.5)


def test_all_places_taken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eyestate.server.edge.Places", lambda: Places(2))

    async def work(service: Service) -> None:
        held = service.hold()
        waiting = [await service.connect() for _ in range(2)]
        for client in waiting:
            await client.send(request(CROP))
        await held.next(2)
        refused = await service.ask(request(CROP))
        assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "overloaded", "1")
        for submission in held.submissions:
            submission.end(np.array([0.5], np.float32))
        assert [(await client.answer()).status for client in waiting] == [200, 200]

    run(work)


def test_while_the_service_stops(run: Run) -> None:
    async def work(service: Service) -> None:
        edge = service.app.state.edge
        edge.draining = True
        client = await service.connect()
        await client.send(request(CROP))
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await client.closed() < 5
        edge.rejecting = True
        answer = await service.ask(request(CROP))
        assert (answer.status, answer.code, answer.headers["connection"]) == (503, "draining", "close")

    run(work)


def test_keys_and_their_quotas(run: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret crops_per_second=0.001 burst=2\n")

    async def work(service: Service) -> None:
        answer = await service.ask(request(CROP))
        assert (answer.status, answer.code, answer.headers["www-authenticate"]) == (401, "unauthorized", "bearer")
        for header in (b"X-API-Key: secret", b"Authorization: Bearer secret"):
            assert (await service.ask(request(CROP if b"API" in header else LARGE, header))).status == 200
        answer = await service.ask(request(CROP, b"X-API-Key: secret"))
        assert (answer.status, answer.code) == (429, "quota_exceeded")

    run(work, api_keys_file=keys)


@pytest.mark.parametrize("late", [False, True])
def test_a_fault_of_ours_is_told_as_such(run: Run, caplog: pytest.LogCaptureFixture, late: bool) -> None:
    class Broken(Held):
        def enqueue(self, submission: Submission) -> None:
            if not late:
                raise RuntimeError("the network broke")
            super().enqueue(submission)

    async def work(service: Service) -> None:
        broken = Broken()
        service.serve(batcher=broken)
        client = await service.connect()
        await client.send(request(CROP))
        if late:
            (await broken.next()).end(np.array(["no score"]))
        answer = await client.answer()
        assert (answer.status, answer.code) == (500, "internal")

    with caplog.at_level(logging.ERROR):
        run(work)
    assert "the request failed" in caplog.messages


def test_a_gpu_that_fails_ends_the_worker(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(processes, "end_soon", told.append)

    async def work(service: Service) -> None:
        held = service.hold()
        client = await service.connect()
        await client.send(request(CROP))
        (await held.next()).end(DeviceError("the GPU is gone"))
        assert (await client.answer()).status == 503

    run(work)
    assert told == ["the GPU is gone"]


def test_the_client_behind_a_trusted_proxy_counts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Noting(Places):
        def take(self, upload: Any) -> None:
            seen.append(upload.client)
            super().take(upload)

    monkeypatch.setattr("eyestate.server.edge.Places", Noting)

    async def work(service: Service) -> None:
        for headers in ([], [b"X-Forwarded-For: 198.51.100.7, 127.0.0.1"], [b"X-Forwarded-For: "]):
            assert (await service.ask(request(CROP, *headers))).status == 200

    run(work, trusted_proxies="127.0.0.1")
    assert seen == ["127.0.0.1", "198.51.100.7", "127.0.0.1"]
    seen.clear()
    run(work)
    assert seen == ["127.0.0.1"] * 3


def test_nothing_is_left_to_the_garbage_collection(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stop requests for longer, the more of them there have been."""
    requests: list[weakref.ref[Any]] = []

    class Watched(fast_path.DirectRequest):
        __slots__ = ("__weakref__",)

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            requests.append(weakref.ref(self))

    monkeypatch.setattr(connections, "DirectRequest", Watched)

    async def work(service: Service) -> None:
        gc.disable()
        try:
            client = await service.connect()
            for body in (CROP, JPEG, b"x", CROP):
                await client.send(request(body))
                await client.answer()
            client.close()
            await until(lambda: not any(each() for each in requests))
        finally:
            gc.enable()

    run(work)
    assert len(requests) == 4
