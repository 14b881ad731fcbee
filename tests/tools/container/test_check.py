from __future__ import annotations

from typing import Any

from tools.container.check import confinement_claims

INSIDE: dict[str, Any] = {
    "uid": 65532,
    "gid": 65532,
    "capabilities": "0000000000000000",
    "writing": {"/": "EROFS", "/app": "EROFS", "/tmp": "works"},
    "programs": [],
    "modules": [],
}


def fallen(inside: dict[str, Any], as_root: dict[str, Any]) -> list[str]:
    return [claim.found for claim in confinement_claims(inside, as_root) if not claim.held]


def test_a_confined_container_holds_every_claim() -> None:
    assert fallen(INSIDE, INSIDE) == []


def test_each_breach_is_told() -> None:
    open_to_root = INSIDE | {"writing": {"/": "EROFS", "/app": "works", "/tmp": "works"}}
    assert fallen(INSIDE, open_to_root) == ["EROFS, works"]
    assert fallen(open_to_root, INSIDE) == ["/app, /tmp"]
    assert fallen(INSIDE | {"uid": 0}, INSIDE) == ["0:65532"]
    assert fallen(INSIDE | {"capabilities": "0000000000000400"}, INSIDE) == ["0000000000000400"]
    assert fallen(INSIDE | {"programs": ["gcc"]}, INSIDE) == ["gcc"]
    assert fallen(INSIDE | {"modules": ["torch"]}, INSIDE) == ["torch"]
