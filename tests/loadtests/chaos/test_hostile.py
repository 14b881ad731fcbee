"""The attacks and the reading of the answers to them, and a run of seconds against the real service."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtests.chaos.__main__ import main
from loadtests.chaos.attacks import Attack, Attacks
from loadtests.chaos.hostile import fault_of, read_answers

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
