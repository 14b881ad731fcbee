"""The attacks and the reading of the answers to them, and a run of seconds against the real service."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from loadtests.chaos import attackers
from loadtests.chaos import hostile as hostile_module
from loadtests.chaos.__main__ import main
from loadtests.chaos.attackers import fault_of, read_answers
from loadtests.chaos.attacks import Attack, Attacks
from loadtests.chaos.hostile import Found, hostile
from loadtests.chaos.memory import Sample
from tools.harness import load
from tools.harness.load import Outcome

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx-request-id: %b\r\n\r\nok\n"


def test_attacks_are_of_all_kinds_on_all_routes() -> None:
    mix = [*itertools.islice(Attacks("cascade"), 3_000)]
    routes = {piece.split(b" ", 2)[1] for each in mix for piece in each.pieces[:1] if piece.count(b" ") >= 2}
    assert {b"/v1/score", b"/v1/score/batch", b"/v1/faces", b"/v2/models/cascade/infer", b"/metrics"} <= routes
    assert {each.kind for each in mix} == {
        "ambiguous head",
        "body like a request",
        "broken chunks",
        "compressed body",
        "crops without eyes",
        "damaged body",
        "decompression bomb",
        "ends in the middle",
        "foreign host",
        "large image in few bytes",
        "long head",
        "nested JSON",
        "no HTTP/1.1",
        "odd method or path",
        "pipelined",
        "upgrade",
        "very many segments",
        "waits for 100",
    }


def test_answers_are_told_apart() -> None:
    stream = b"HTTP/1.1 100 Continue\r\n\r\n" + OK % b"a" + OK % b"b"
    assert [*read_answers(stream)] == [(200, "a"), (200, "b")]
    assert [*read_answers(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n" + OK % b"b", without_body=True)] == [
        (404, ""),
        (200, "b"),
    ]


@pytest.mark.parametrize("stream", [OK % b"a" + b"ok\n", (OK % b"a")[:-1], b"HTTP/1.1 200 OK\r\n", b"\x00"])
def test_what_is_no_answer_is_a_fault(stream: bytes) -> None:
    with pytest.raises(ValueError, match="answer"):
        [*read_answers(stream)]


@pytest.mark.parametrize(
    ("requests", "ids", "sound"),
    [
        (1, ["a", "canary"], True),
        (3, ["a", "b", "c", "canary"], True),
        (1, ["a"], True),  # and closed
        (3, ["a"], True),
        (1, [], False),
        (1, ["canary"], False),
        (1, ["a", "b", "canary"], False),
        (1, ["a", "b"], False),
        (1, ["a", "canary", "b"], False),
        (1, ["smuggled"], False),
        (2, ["a", "smuggled-2", "canary"], False),
    ],
)
def test_each_request_gets_one_answer(requests: int, ids: list[str], sound: bool) -> None:
    assert (fault_of(Attack("some", [b""], requests), ids, "canary") is None) is sound


def test_in_miniature(tmp_path: Path) -> None:
    """Seconds are too few for claims about latency and memory."""
    options = ["--model", "small", "--workers", "1", "--seconds", "3", "--requests", "300", "--timeout", "10"]
    CliRunner().invoke(main, ["hostile", *options, "--output", str(tmp_path)])
    report = json.loads((tmp_path / "chaos-hostile.json").read_text())
    broken = [claim for claim in report["claims"] if not claim["held"] and not claim["what"].startswith(("p99", "mem"))]
    assert broken == []
    assert sum(report["hostile"]["kinds"].values()) == 300
    assert len(report["hostile"]["answered"]) > 5
    assert report["rounds"] == "1 of 1"
    assert report["hostile"]["unread"] < 60


class TestInterrupted:
    """Against a stand-in for the service, which answers everything with 200 and closes."""

    async def run(self, signum: int, checkpoints: list[Found]) -> Found:
        attacked = False

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal attacked
            if b"canary" in await reader.read(2**16) and not attacked:
                attacked = True
                asyncio.get_running_loop().call_later(2.5, os.kill, os.getpid(), signum)
            writer.write(OK % b"a")
            writer.close()

        standing_in = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = standing_in.sockets[0].getsockname()[1]
        server = cast("Any", SimpleNamespace(port=port, memory=lambda: SimpleNamespace(anonymous=100.0)))
        async with standing_in:
            return await hostile(
                server,
                model="any",
                requests=1_000_000,
                rate=20,
                seconds=60_000,
                timeout=60,
                checkpoint=checkpoints.append,
            )

    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
    def test_there_is_a_verdict(self, signum: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hostile_module, "_WARM_UP_SECONDS", 0.1)
        checkpoints: list[Found] = []
        figures, claims = load.run(self.run(signum, checkpoints))
        assert checkpoints
        held = {claim.what: claim.held for claim in claims}
        assert not held["the run came to its end"]
        assert not held["1,000,000 hostile requests in 60000 s"]
        assert held["no request is lost"]
        assert sum(figures["hostile"]["kinds"].values()) > 5


def test_a_fault_of_the_client_is_counted_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> bytes:
        raise RuntimeError("a fault of the client")

    monkeypatch.setattr(attackers, "_conversation", broken)
    findings = attackers.Findings()
    attacks = itertools.islice(Attacks("cascade"), 100)
    asyncio.run(attackers.attack(1, attacks, 0.0001, 1, findings))
    assert findings.kinds.total() == findings.faulty == 100
    assert len(findings.faults) == attackers.SHOWN
    assert attackers.Findings.from_json(findings.to_json()) == findings


def test_the_verdict_is_strict() -> None:
    def outcome(sent: float, milliseconds: float) -> Outcome:
        return Outcome(sent, milliseconds / 1e3, 200, None, None, 1)

    def judged(beside: float, after: float, *, is_over: bool = True) -> dict[str, bool]:
        good = cast("Any", SimpleNamespace(sent=0, refused=0, held_back=0, outcomes=[]))
        good.outcomes = [outcome(105, beside), outcome(111.5, 3), outcome(110.5, 999)]
        good.sent = len(good.outcomes)
        findings = attackers.Findings()
        findings.kinds["some"] = 5
        samples = [Sample(0, 100), Sample(10, 400), Sample(20, after)]
        goal = hostile_module.Goal(5, 20, 1)
        attacked = [(100.0, 110.0)]
        _, claims = hostile_module.verdict(
            good, findings, attacked=attacked, samples=samples, before=100, goal=goal, is_over=is_over
        )
        return {claim.what.partition(" ")[0]: claim.held for claim in claims}

    assert all(judged(8, 131).values())  # what is sent in the second behind an attack counts for neither
    assert not judged(8.1, 131)["p99"]
    assert not judged(8, 132)["memory"]
    assert not judged(8, 131, is_over=False)["the"]
