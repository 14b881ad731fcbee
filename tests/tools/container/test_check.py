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


def failed_claims(inside: dict[str, Any], as_root: dict[str, Any]) -> list[str]:
    return [claim.found for claim in confinement_claims(inside, as_root) if not claim.held]


def test_confined_container_meets_every_claim() -> None:
    assert failed_claims(INSIDE, INSIDE) == []


def test_each_breach_is_reported() -> None:
    open_to_root = INSIDE | {"writing": {"/": "EROFS", "/app": "works", "/tmp": "works"}}
    assert failed_claims(INSIDE, open_to_root) == ["EROFS, works"]
    assert failed_claims(open_to_root, INSIDE) == ["/app, /tmp"]
    assert failed_claims(INSIDE | {"uid": 0}, INSIDE) == ["0:65532"]
    assert failed_claims(INSIDE | {"capabilities": "0000000000000400"}, INSIDE) == ["0000000000000400"]
    assert failed_claims(INSIDE | {"programs": ["gcc"]}, INSIDE) == ["gcc"]
    assert failed_claims(INSIDE | {"modules": ["torch"]}, INSIDE) == ["torch"]
