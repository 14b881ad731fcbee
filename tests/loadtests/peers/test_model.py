from __future__ import annotations

from pathlib import Path

import pytest

from eyestate.bundle import load_bundle
from eyestate.scorer import Network
from loadtests.peers.model import Model
from tools.harness.crops import eye, jpeg
from tools.harness.small_bundle import write_small_bundle


def test_responds_like_our_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_small_bundle(tmp_path)
    monkeypatch.setenv("EYESTATE_MODEL", str(path))
    monkeypatch.setenv("EYESTATE_DEVICE", "cpu")
    model = Model()
    image = jpeg(eye())
    scorer = Network(load_bundle(path), "cpu")
    score = scorer.score([image]).item()
    (answer,) = model.predict([image])
    assert answer == {
        "score": pytest.approx(score, abs=1e-6),
        "state": scorer.state(score),
        "model": {"name": "small", "version": "0.0.0"},
    }
