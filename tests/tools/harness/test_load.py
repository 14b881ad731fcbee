from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter

import pytest

from tests.tools.harness.conftest import TinyServer, reply, tiny_server
from tools.harness.load import (
    Connection,
    LoadGenerator,
    Outcome,
    RequestLostError,
    http_request,
    losses,
    percentiles_ms,
    poisson,
    run,
    statuses,
    stop_after,
)
from tools.harness.servers import free_port

REQUEST = http_request("/v1/score", b"body")


async def closed_loop(generator: LoadGenerator, connections: int, seconds: float) -> None:
    stop = asyncio.Event()
    await asyncio.gather(generator.closed_loop(connections, stop), stop_after(seconds, stop))
    generator.close()


async def arrivals(generator: LoadGenerator, times: list[float]) -> None:
    await generator.send_at(times, asyncio.Event())
    generator.close()


async def open_loop(generator: LoadGenerator, rate: float, seconds: float) -> None:
    stop = asyncio.Event()
    await asyncio.gather(generator.open_loop(rate, stop), stop_after(seconds, stop))
    generator.close()


class TestRequest:
    def test_post(self) -> None:
        head, _, body = http_request("/path", b"abc", "image/png", "application/json").partition(b"\r\n\r\n")
        assert body == b"abc"
        assert head.split(b"\r\n")[0] == b"POST /path HTTP/1.1"
        assert {b"Content-Length: 3", b"Content-Type: image/png", b"Accept: application/json"} <= {*head.split(b"\r\n")}

    def test_get(self) -> None:
        assert http_request("/readyz").startswith(b"GET /readyz HTTP/1.1\r\n")


class TestConnection:
    def test_answer(self) -> None:
        async def ask(port: int) -> None:
            connection = await Connection.open(port)
            for _ in range(2):
                answer = await connection.request(REQUEST)
                assert (answer.status, answer.body) == (429, b"busy")
                assert answer.headers["retry-after"] == "3"
            assert connection.usable
            connection.close()

        with tiny_server(lambda _: reply(429, b"busy", "Retry-After: 3")) as server:
            run(ask(server.port))
        assert server.requests == [REQUEST, REQUEST]

    def test_connection_closed_by_the_server_after_the_response(self) -> None:
        async def ask(port: int) -> None:
            connection = await Connection.open(port)
            assert (await connection.request(REQUEST)).status == 503
            assert not connection.usable

        with tiny_server(lambda _: reply(503, b"{}", "Connection: close")) as server:
            run(ask(server.port))

    @pytest.mark.parametrize("answer", [None, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"nonsense\r\n\r\n"])
    def test_incomplete_response_is_a_loss(self, answer: bytes | None) -> None:
        async def ask(port: int) -> None:
            connection = await Connection.open(port)
            with pytest.raises(RequestLostError):
                await connection.request(REQUEST)
            assert not connection.usable

        with tiny_server(lambda _: answer) as server:
            server.hang_up = True
            run(ask(server.port))


class TestClosedLoop:
    def test_counts_what_the_server_counts(self, ok_server: TinyServer) -> None:
        generator = LoadGenerator(ok_server.port, [REQUEST, http_request("/other", b"x")])
        run(closed_loop(generator, 4, 0.3))
        assert generator.sent == len(generator.outcomes) == len(ok_server.requests) > 4
        assert statuses(generator.outcomes) == {"200": generator.sent}
        assert losses(generator.outcomes) == {}
        assert ok_server.connections == 4
        by_path = Counter(request.split()[1] for request in ok_server.requests)
        assert abs(by_path[b"/v1/score"] - by_path[b"/other"]) <= 4

    def test_statuses_and_losses_add_up(self) -> None:
        replies = [reply(200), reply(429, b"{}", "Retry-After: 1"), None, reply(200)]
        with tiny_server(lambda number: replies[number % 4]) as server:
            generator = LoadGenerator(server.port, [REQUEST])
            run(closed_loop(generator, 3, 0.3))
        hung_up = len(server.requests) // 4
        answered = statuses(generator.outcomes)
        assert (
            generator.sent == len(server.requests) == sum(answered.values()) + sum(losses(generator.outcomes).values())
        )
        assert abs(sum(losses(generator.outcomes).values()) - hung_up) <= 1
        assert abs(answered["200"] - 2 * answered["429"]) <= 4
        assert {outcome.retry_after for outcome in generator.outcomes if outcome.status == 429} == {"1"}

    def test_connections_are_replaced(self, ok_server: TinyServer) -> None:
        generator = LoadGenerator(ok_server.port, [REQUEST], per_connection=5)
        run(closed_loop(generator, 1, 0.2))
        assert generator.sent == len(ok_server.requests)
        assert ok_server.connections == -(-generator.sent // 5)

    def test_refused_connections_are_not_requests(self) -> None:
        generator = LoadGenerator(free_port(), [REQUEST])
        run(closed_loop(generator, 2, 0.1))
        assert generator.sent == 0
        assert generator.refused >= 2
        assert generator.first_refused is not None


class TestOpenLoop:
    def test_keeps_its_rate(self, ok_server: TinyServer) -> None:
        generator = LoadGenerator(ok_server.port, [REQUEST])
        run(open_loop(generator, 200, 0.5))
        assert generator.sent == len(generator.outcomes) == len(ok_server.requests) > 1
        due = sorted(outcome.sent - outcome.late for outcome in generator.outcomes)
        assert [time - due[0] for time in due] == pytest.approx([n / 200 for n in range(len(due))], abs=1e-6)
        assert generator.held_back == 0

    def test_does_not_wait_for_slow_answers(self, ok_server: TinyServer) -> None:
        ok_server.delay = 0.3
        generator = LoadGenerator(ok_server.port, [REQUEST])
        run(open_loop(generator, 100, 0.3))
        assert generator.sent > 1
        assert ok_server.connections > generator.sent / 2
        assert statuses(generator.outcomes) == {"200": generator.sent}


def test_percentiles_of_selected_outcomes() -> None:
    outcomes = [Outcome(0, n / 1000, 200, None, None, 1) for n in range(1, 101)]
    outcomes.append(Outcome(0, 9, 429, None, None, 1))
    found = percentiles_ms(outcomes, lambda outcome: outcome.status == 200)
    assert found == pytest.approx({"p50": 50.5, "p90": 90.1, "p99": 99.01, "max": 100.0})
    assert percentiles_ms(outcomes, lambda outcome: outcome.status == 500) is None


class TestArrivals:
    def test_requests_are_sent_when_due(self, ok_server: TinyServer) -> None:
        generator = LoadGenerator(ok_server.port, [REQUEST])
        run(arrivals(generator, [0.0, 0.05, 0.3]))
        begun = [outcome.sent - outcome.late for outcome in generator.outcomes]
        assert [time - begun[0] for time in begun] == pytest.approx([0, 0.05, 0.3], abs=1e-6)
        assert len(generator.lags) == 3

    def test_delayed_requests_are_recorded_as_late(self, ok_server: TinyServer) -> None:
        async def hindered(generator: LoadGenerator) -> None:
            load = asyncio.create_task(arrivals(generator, [0.0, 0.3, 1.0]))
            await asyncio.sleep(0.005)
            time.sleep(0.5)
            await load

        generator = LoadGenerator(ok_server.port, [REQUEST])
        run(hindered(generator))
        late = sorted((outcome.sent - outcome.late, outcome.late) for outcome in generator.outcomes)
        assert late[1][1] > 0.15
        assert max(generator.lags) > 0.15

    def test_poisson(self) -> None:
        times = list(itertools.islice(poisson(200, seed=1), 10_000))
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert times[-1] == pytest.approx(50, rel=0.05)
        mean = sum(gaps) / len(gaps)
        deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
        assert deviation == pytest.approx(mean, rel=0.05)  # as in an exponential distribution
        assert times[:5] == list(itertools.islice(poisson(200, seed=1), 5))
