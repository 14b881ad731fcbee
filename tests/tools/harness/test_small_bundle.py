from __future__ import annotations

from pathlib import Path

import numpy as np

from eyestate.bundle import load_bundle
from eyestate.scorer import Network
from tools.harness.crops import eye
from tools.harness.small_bundle import SIDE, mflop, write_small_bundle


def test_scores_crops_like_other_bundles(tmp_path: Path) -> None:
    scorer = Network(load_bundle(write_small_bundle(tmp_path)), "cpu")
    crops = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE)).astype(np.uint8)
    scores = scorer.score([*crops, eye()])
    assert scores.shape == (6,)
    assert scores.dtype == np.float32
    assert ((scores > 0) & (scores < 1)).all()
    assert len(set(scores.tolist())) == 6


def test_is_deterministic(tmp_path: Path) -> None:
    first, second = (load_bundle(write_small_bundle(tmp_path / name)).manifest for name in "ab")
    assert first == second
    assert load_bundle(write_small_bundle(tmp_path / "a")).manifest == first


def test_is_small_and_declared_untrained(tmp_path: Path) -> None:
    path = write_small_bundle(tmp_path)
    assert (path / "model.onnx").stat().st_size < 200_000
    assert 1 < mflop() < 10
    assert "untrained" in load_bundle(path).manifest.training.architecture
