from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tools.container.check import Container, confinement_claims, without_gpu

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


@dataclass(frozen=True)
class Started:
    """A container that was started without a GPU, whose CUDA provider lacks a library."""

    server: SimpleNamespace
    lacks: str

    def run(self, *_: str, stdin: str) -> str:
        assert "libonnxruntime_providers_" in stdin
        return f"printed on loading\n{self.lacks}\n"


def test_the_image_for_gpus_lacks_the_driver_only(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"message": "EYESTATE_DEVICE=cuda cannot be used: there is no NVIDIA driver"}\n')
    for lacks, held in (("libcuda.so.1", True), ("libcublasLt.so.13", False), ("none", False)):
        warned, libraries = without_gpu(cast("Container", Started(SimpleNamespace(log=log), lacks)))
        assert warned == ("without a GPU it warns and falls back", warned.found, True)
        assert warned.found.endswith("there is no NVIDIA driver")
        assert (libraries.found, libraries.held) == (lacks, held)
