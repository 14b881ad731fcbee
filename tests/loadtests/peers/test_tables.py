from __future__ import annotations

import base64

import pytest

from loadtests.peers.servers import BARE, OURS, PEERS, QUICKSTART, Peer
from loadtests.peers.tables import Point, page, ratios, rows, targets
from tools.harness.report import conditions
from tools.harness.servers import Memory
from tools.harness.wrk import Load


def point(peer: str, turn: int, connections: int, answers: int, *, p99: float = 2.0, **more: dict[str, int]) -> Point:
    statuses = {"200": answers} | more.get("statuses", {})
    load = Load(1.0, statuses, 1.0, p99, 5.0, {"connect": 0, "read": 0} | more.get("errors", {}))
    return Point(peer, turn, connections, load, Memory(100 + turn, 200, 50))


GOOD = [
    point(OURS, 0, 16, 900),
    point(BARE, 0, 16, 1000),
    point(QUICKSTART, 0, 16, 200),
    point(OURS, 1, 16, 500),  # the machine was slower in this round
    point(BARE, 1, 16, 500),
    point(QUICKSTART, 1, 16, 100),
]


def test_an_http_server_in_a_process_of_its_own_counts() -> None:
    workers = {peer.name: (peer.workers(1), peer.workers(2), peer.workers(4)) for peer in PEERS}
    assert workers[OURS] == workers[BARE] == (1, 2, 4)
    assert workers["Mosec"] == workers["MLServer"] == (1, 1, 3)


def test_rows_are_medians_over_the_rounds() -> None:
    ours, bare, _ = rows(GOOD)
    assert (ours.peer, ours.requests_per_second, ours.pss_mib) == (OURS, 700, 101)
    assert bare.requests_per_second == 750


def test_ratios_compare_within_a_round() -> None:
    assert ratios(GOOD, BARE) == {16: pytest.approx(0.95)}
    assert ratios(GOOD, "MLServer") == {}


def test_targets_met() -> None:
    assert [target.held for target in targets(GOOD)] == [True, True, True, True]


@pytest.mark.parametrize(
    ("bad", "number"),
    [
        ([point(OURS, 0, 64, 10), point(BARE, 0, 64, 100)], 0),
        ([point(OURS, 0, 64, 10), point(QUICKSTART, 0, 64, 100)], 1),
        ([point(OURS, 0, 64, 10, p99=3.5)], 2),
        ([point(OURS, 0, 64, 10, statuses={"500": 1})], 3),
        ([point(OURS, 0, 64, 10, errors={"read": 1})], 3),
    ],
)
def test_targets_missed(bad: list[Point], number: int) -> None:
    assert targets(bad)[number].held is False


def test_rejections_and_the_tail_of_a_single_connection_are_allowed() -> None:
    found = targets([point(OURS, 0, 1, 10, p99=9.0, statuses={"429": 3}), point(OURS, 0, 16, 10)])
    assert [target.held for target in found] == [None, None, True, True]


def test_page_has_every_server_and_its_settings() -> None:
    text = page(conditions(model="small"), PEERS, [*GOOD, point("Mosec", 0, 16, 5, statuses={"429": 2})])
    assert "| Mosec | 16 | 5 | 1.0 | 2.0 | 429: 2 | – | 100 |" in text
    assert "- **Mosec** (mosec " in text
    assert "MLServer" not in text


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_requests_carry_the_image(peer: Peer) -> None:
    image = bytes(range(256))
    body, content_type = peer.request(image)
    assert image in body or base64.b64encode(image) in body
    assert content_type
