"""How far crops that differ in a known way are from a bundle's reference, as a service would report it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from eyestate.arrays import Pixels
from eyestate.bundle import Feature
from eyestate.drift import Drift
from eyestate.images import decode, to_input
from eyestate.quality import measure, shrink
from eyestate.scorer import Scorer
from training.data.datasets import Crop


@dataclass(frozen=True, slots=True)
class Example:
    """The indices of drift, and the share of uncertain verdicts, on crops of one kind."""

    crops: str
    n: int
    indices: dict[Feature, float]
    uncertain: float


def _blurred(sigma: float) -> Callable[[Pixels], Pixels]:
    return lambda crop: np.array(Image.fromarray(crop).filter(ImageFilter.GaussianBlur(sigma)), np.uint8)


def _halved(crop: Pixels) -> Pixels:
    return np.rint(crop / 2).astype(np.uint8)


def _shrunk(crop: Pixels) -> Pixels:
    return to_input(crop, 16)


_CHANGES: Final[dict[str, Callable[[Pixels], Pixels]]] = {
    "the same at half the brightness": _halved,
    "the same, blurred (σ 0.75 px)": _blurred(0.75),
    "the same, blurred (σ 1.5 px)": _blurred(1.5),
    "the same, shrunk to 16 px": _shrunk,
}


def drift_examples(scorer: Scorer, held_out: Sequence[Crop], strangers: Sequence[Crop]) -> list[Example]:
    """The indices on held-out crops of the reference's own kind, on those changed, and on crops of another kind.

    Args:
        scorer: of a bundle whose manifest has a reference.
        held_out: at least ``drift.LEAST``, as of each kind below.
        strangers: crops of another kind, MRL's.
    """
    pixels = [decode(crop.data) for crop in held_out]
    kinds = {f"{len(pixels):,} held-out crops": pixels}
    kinds |= {name: [change(crop) for crop in pixels] for name, change in _CHANGES.items()}
    kinds["MRL's validation subjects"] = [decode(crop.data) for crop in strangers]
    return [_example(scorer, name, crops) for name, crops in kinds.items()]


def _example(scorer: Scorer, name: str, crops: Sequence[Pixels]) -> Example:
    drift = Drift(scorer.manifest.reference, scorer.manifest.thresholds)
    quality = measure([shrink(crop) for crop in crops])
    drift.add("score", scorer.score(crops).astype(float))
    drift.add("width", np.array([crop.shape[1] for crop in crops], float))
    drift.add("brightness", quality.brightness.astype(float))
    drift.add("sharpness", quality.sharpness.astype(float))
    return Example(name, len(crops), drift.indices(), drift.uncertain() or 0.0)
