from __future__ import annotations

import numpy as np

from training.data.labels import Label
from training.labelling.label_errors import likely_wrong


def test_finds_labels_that_networks_contradict() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, 200)
    beliefs = {f"{i:03}": float(np.clip(side + random.normal(0, 0.1), 0, 1)) for i, side in enumerate(truth)}
    wrong = {f"{i:03}" for i in range(0, 200, 10)}
    labels = [
        Label(file, int(side) ^ (file in wrong), None, "consensus") for file, side in zip(beliefs, truth, strict=True)
    ]
    unknown = [Label("200", None, 0.5, "consensus"), Label("nobody believes", 1, None, "consensus")]
    found = likely_wrong([*labels, *unknown], beliefs)
    assert found <= wrong
    assert len(found) > len(wrong) / 2


def test_one_class_alone_has_no_errors() -> None:
    assert likely_wrong([Label("a", 1, None, "human"), Label("b", 1, None, "human")], {"a": 0.1, "b": 0.9}) == set()
    assert likely_wrong([], {}) == set()
