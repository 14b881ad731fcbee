"""What reports say of the machine."""

from __future__ import annotations

import platform

import pytest

from tools.harness import report


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("fpu avx2 fma avx512f avx512_bf16 amx_tile amx_bf16", "AMX"),
        ("fpu avx2 fma avx512f avx512_bf16", "AVX-512 BF16"),
        ("fpu avx2 fma avx512f", "AVX-512"),
        ("fpu avx2 fma", "AVX2"),
        ("fpu", platform.machine()),
        ("", platform.machine()),
    ],
)
def test_the_widest_instructions_are_told(monkeypatch: pytest.MonkeyPatch, flags: str, found: str) -> None:
    told = {"flags": flags, "model name": "A processor"}
    monkeypatch.setattr(report, "_processor", told.__getitem__)
    assert report.instructions() == found
    assert report.conditions()["cpu"] == f"A processor ({found})"
    assert report.by_processor("pool") == f"pool-{found.lower().replace(' ', '-')}"
