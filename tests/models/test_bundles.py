"""What ships behaves: every bundle in models/ passes the behavioural tests on generated crops."""

from __future__ import annotations

import pytest

import eyestate
from eyestate.bundle import models_dir

SHIPPED = sorted(path.parent.name for path in models_dir().glob("*/manifest.json"))


@pytest.mark.parametrize("model", SHIPPED)
def test_behaves(model: str) -> None:
    pytest.importorskip("torch", reason="the behavioural tests need the training environment")
    from training.evaluation.behaviour import behaviour, generated

    results = behaviour(eyestate.load(model, device="cpu"), generated(8))
    assert results.failures == []
