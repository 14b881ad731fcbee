"""Put a small and a large network together: the small one scores all crops and defers those it is not sure of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from eyestate.bundle import Bundle, CascadeManifest, DeferralBand, Member, Metric, cascade_sha256
from eyestate.scorer import Network, Scorer
from training.data.datasets import FAR_SIDE, Crop, LabelledCrop, fingerprint, shrunk
from training.data.split import Split
from training.evaluation.eer import Scores, equal_error_rate
from training.evaluation.intervals import wilson
from training.evaluation.logits import log_odds
from training.evaluation.results import ScoredCrops, eer_metrics, slices
from training.export.bundle import FAR_SAMPLE, place, reference_of, thresholds_of, to_json
from training.export.card import write_evaluation
from training.files import read_arrays, write_arrays

MAX_DIFFERENCE: Final = 0.002  # EER of the cascade, measured against what the large network says
WIDTHS: Final = 400  # half-widths that are tried
_CHUNK: Final = 256


@dataclass(frozen=True, slots=True)
class Pair:
    """The scores (N,) of both networks on the same crops."""

    small: Scores
    large: Scores

    def deferred(self, band: DeferralBand) -> npt.NDArray[np.bool_]:
        """The crops (N,) that the large network is asked about."""
        return (self.small >= band.low) & (self.small <= band.high)

    def together(self, band: DeferralBand) -> Scores:
        """The cascade's scores (N,)."""
        return np.where(self.deferred(band), self.large, self.small)


def choose_band(pair: Pair) -> DeferralBand:
    """The narrowest band within which asking the large network makes the cascade say what that says.

    Bands lie around a score of 0.5, as far below as above it in log-odds. What the large network says, open from 0.5
    on, counts as the truth, so that no labels are needed; a band is good enough where the EER of the cascade's scores
    against it, and that within every wider band, is at most ``MAX_DIFFERENCE``.

    Where the large network takes all crops for open, or all for closed, nothing can be told, and it is asked always.

    Args:
        pair: the scores (N,) on crops of the kind that the model is for.
    """
    truth = (pair.large >= 0.5).astype(np.int64)
    distances = np.abs(log_odds(pair.small).astype(np.float64))
    best = distances.max()
    for width in np.quantile(distances, np.linspace(1, 0, WIDTHS)) if 0 < truth.sum() < truth.size else ():
        if equal_error_rate(np.where(distances <= width, pair.large, pair.small), truth) > MAX_DIFFERENCE:
            break
        best = width
    return DeferralBand(
        low=float(1 / (1 + np.exp(best))),
        high=float(1 / (1 + np.exp(-best))),
        rule="on crops of the unlabelled set that are not held out, the narrowest band around 0.5 that brings the EER, "
        f"measured against what the large network says, to {MAX_DIFFERENCE}",
    )


def cached_scores(scorer: Scorer, crops: Sequence[Crop], folder: Path) -> Scores:
    """P(open) of each crop (N,), float64; kept in ``folder`` by model and crops, so nothing is computed twice."""
    path = folder / f"{scorer.manifest.name}-{scorer.manifest.sha256[:12]}-{fingerprint(crops)[:12]}.npz"
    if not path.exists():
        parts = [
            scorer.score([crop.data for crop in crops[start : start + _CHUNK]])
            for start in tqdm(range(0, len(crops), _CHUNK), desc=f"scoring with {scorer.manifest.name}")
        ]
        write_arrays(path, scores=np.concatenate(parts))
    return read_arrays(path, "cascade")["scores"].astype(np.float64)


def make_cascade(
    small: Bundle,
    large: Bundle,
    split: Split,
    models: Path,
    *,
    name: str,
    version: str,
    results: Path,
    max_wrong: float,
    held_out: Sequence[LabelledCrop],
    reference_crops: Sequence[Crop],
    cache: Path,
) -> Path:
    """Choose the band and the thresholds, judge the cascade, write its bundle.

    Args:
        small, large: the networks, of bundles in ``models``.
        split: MRL.
        models: the folder of the bundles.
        name, version: of the cascade.
        results: the folder for ``evaluation.json``, the results that the model card needs beyond the manifest.
        max_wrong: share of the verdicts outside the uncertain band that may be wrong on the validation subjects.
        held_out: labelled crops of the unlabelled set that no network learnt from.
        reference_crops: the other crops of that set; they choose the band, and the service measures drift from them.
        cache: folder for scores.

    Returns:
        The folder of the bundle.
    """
    networks = [Network(bundle, "cpu") for bundle in (small, large)]

    def ask(crops: Sequence[Crop]) -> Pair:
        return Pair(*(cached_scores(network, crops, cache) for network in networks))

    at_home = ask(reference_crops)
    band = choose_band(at_home)
    validation = [*split.val, *map(shrunk, split.val[::FAR_SAMPLE])]
    thresholds = thresholds_of(ScoredCrops(validation, ask(validation).together(band)), max_wrong)
    metrics = [_share("Share deferred, crops of the unlabelled set that are not held out", at_home.deferred(band))]
    tests = {
        "MRL test subjects": split.test,
        f"MRL test subjects shrunk to {FAR_SIDE} px": [*map(shrunk, split.test)],
        "held-out crops of the unlabelled set": held_out,
    }
    for kind, crops in tests.items():
        if crops:
            pair = ask(crops)
            metrics += eer_metrics(f"EER, {kind}", ScoredCrops(crops, pair.together(band)))
            metrics.append(_share(f"Share deferred, {kind}", pair.deferred(band)))
    members = [Member(name=bundle.manifest.name, sha256=bundle.manifest.sha256) for bundle in (small, large)]
    manifest = CascadeManifest(
        name=name,
        version=version,
        created=datetime.now(UTC).replace(microsecond=0),
        sha256=cascade_sha256(members[0], members[1], band),
        small=members[0],
        large=members[1],
        deferral_band=band,
        thresholds=thresholds,
        metrics=metrics,
        reference=reference_of(reference_crops, at_home.together(band), thresholds),
    )
    path = place(models, name, {"manifest.json": to_json(manifest)}, check=lambda draft: draft)
    by_slice = slices(ScoredCrops(split.test, ask(split.test).together(band)))
    write_evaluation(results / "evaluation.json", manifest, by_slice)
    return path


def _share(name: str, chosen: npt.NDArray[np.bool_]) -> Metric:
    found = wilson(int(chosen.sum()), chosen.size)
    assert found is not None  # there is a crop
    return Metric(name=name, value=found.value, low=found.low, high=found.high, n=chosen.size, interval="Wilson, 95 %")
