from __future__ import annotations

from pathlib import Path

from eyestate.bundle import load_bundle
from tools.harness.sessions import BareScorers
from tools.harness.small_bundle import write_small_bundle


def test_crops_per_second_of_several_sessions(tmp_path: Path) -> None:
    bare = BareScorers(load_bundle(write_small_bundle(tmp_path)), "cpu", scorers=2, threads=1)
    assert bare.device == "cpu-fp32"
    assert bare.crops_per_second(8, 0.1) > 0
    assert bare.best_batch(0.02, (1, 8)) in (1, 8)
