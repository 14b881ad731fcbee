"""Choose the network's input size by experiment: the same short training at several sizes, side by side."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from facenet_pytorch import InceptionResnetV1
from torch.utils.flop_counter import FlopCounterMode

from training.classify import Settings, load_classifier, predict, train
from training.data import Split, shrunk
from training.evaluate import equal_error_rate

VAL_CROPS = 2_000


# One epoch is too short for a moving average of the weights, hence none.
SHORT_RUN = Settings(epochs=1, learning_rate=5e-4, average_decay=0.0)


def compare(split: Split, backbone: str, sides: Sequence[int], output: Path) -> list[dict[str, float]]:
    """Train ``SHORT_RUN`` once per side and score a fixed sample of the validation subjects' crops.

    They are scored as they are and shrunk to 24 px. Every finished side is kept in ``output/<side>``, so that a killed
    comparison continues.

    Returns:
        One row per side: ``side``, ``eer`` (native crops), ``eer_24px``, ``train_s`` (seconds) and ``gflop`` (per
        crop, forward). Also written to ``output/input_size.json``.
    """
    sample = np.random.default_rng(SHORT_RUN.seed).choice(len(split.val), min(VAL_CROPS, len(split.val)), replace=False)
    native = [split.val[i] for i in sorted(sample)]
    far = [shrunk(crop) for crop in native]
    labels = [crop.label or 0 for crop in native]

    rows: list[dict[str, float]] = []
    for side in sides:
        run = output / str(side)
        result = run / "result.json"
        if not result.exists():
            started = time.perf_counter()
            checkpoint = train(
                Split(split.train, native, []), dataclasses.replace(SHORT_RUN, backbone=backbone, input_side=side), run
            )
            train_s = time.perf_counter() - started
            model = load_classifier(checkpoint)
            row = {
                "side": side,
                "eer": equal_error_rate(predict(model, native), labels),
                "eer_24px": equal_error_rate(predict(model, far), labels),
                "train_s": round(train_s),
            }
            result.write_text(json.dumps(row))
        rows.append(json.loads(result.read_text()) | {"gflop": gflop(side)})
    (output / "input_size.json").write_text(json.dumps(rows, indent=2) + "\n")
    return rows


def gflop(side: int) -> float:
    """Floating-point operations of InceptionResnetV1 for one crop, forward, in 10⁹; a multiply-add counts as two."""
    network = InceptionResnetV1().eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, side, side))
    return round(int(counter.get_total_flops()) / 1e9, 2)
