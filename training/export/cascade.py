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

from eyestate.bundle import Bundle, CascadeManifest, DeferralBand, Member, cascade_sha256
from eyestate.scorer import Network, Scorer
from training.data.datasets import Crop, LabelledCrop, fingerprint, labels_of
from training.evaluation.eer import Labels, Scores, equal_error_rate
from training.evaluation.judging import (
    EASY,
    HELD_OUT,
    STRANGERS,
    HeldOut,
    all_slices,
    by_person,
    metrics,
    share,
    stranger_sets,
    threshold_crops,
)
from training.evaluation.logits import log_odds
from training.evaluation.results import ScoredCrops
from training.export.bundle import place, reference_of, thresholds_of, to_json
from training.export.card import write_evaluation
from training.files import read_arrays, write_arrays
from training.models.strangers import Strangers

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

    def within(self, width: float) -> Scores:
        """The scores (N,) of a cascade that defers up to a log-odds of ``width`` on either side."""
        return np.where(np.abs(log_odds(self.small)) <= width, self.large, self.small)

    def together(self, band: DeferralBand) -> Scores:
        """The cascade's scores (N,)."""
        return np.where(self.deferred(band), self.large, self.small)


def choose_band(home: Pair, strangers: Sequence[tuple[Pair, Labels]] = ()) -> DeferralBand:
    """The narrowest band within which asking the large network makes the cascade as good as that.

    Bands lie around a score of 0.5, as far below as above it in log-odds. A band is good enough where it, and every
    wider one, costs at most ``MAX_DIFFERENCE`` of EER. Crops of the kind that the model is for need no labels: what the
    large network says of them, open from 0.5 on, counts as the truth. On labelled crops the EER is compared with that
    of the large network.

    Where the large network takes all crops of the first kind for open, or all for closed, nothing can be told, and it
    is asked always.

    Args:
        home: the scores (N,) on crops of the kind that the model is for.
        strangers: scores (M,) and labels (M,) of other sets of crops, by networks that never saw their people.
    """
    truth = (home.large >= 0.5).astype(np.int64)
    distances = np.abs(log_odds(home.small).astype(np.float64))
    bounds = [(pair, labels, equal_error_rate(pair.large, labels) + MAX_DIFFERENCE) for pair, labels in strangers]
    best = distances.max()
    for width in np.quantile(distances, np.linspace(1, 0, WIDTHS)) if 0 < truth.sum() < truth.size else ():
        if equal_error_rate(home.within(width), truth) > MAX_DIFFERENCE:
            break
        if any(equal_error_rate(pair.within(width), labels) > bound for pair, labels, bound in bounds):
            break
        best = width
    return DeferralBand(
        low=float(1 / (1 + np.exp(best))),
        high=float(1 / (1 + np.exp(-best))),
        rule=f"the narrowest band around 0.5 that costs at most {MAX_DIFFERENCE} of EER: on crops of the unlabelled "
        "set that are not held out, against what the large network says, and on people never seen, against its EER",
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
    labelled: Sequence[LabelledCrop],
    said: tuple[Strangers, Strangers],
    models: Path,
    *,
    name: str,
    version: str,
    results: Path,
    max_wrong: float,
    held_out: HeldOut,
    reference_crops: Sequence[Crop],
    cache: Path,
    output: Path,
) -> Path:
    """Choose the band and the thresholds, judge the cascade, write its bundle.

    Args:
        small, large: the networks, of bundles in ``models``.
        labelled: crops of people.
        said: what both would say of those people if they had never seen them (``strangers_file``).
        models: the folder of the bundles.
        name, version: of the cascade.
        results: the folder for ``evaluation.json``, the results that the model card needs beyond the manifest.
        max_wrong: share of the verdicts outside the uncertain band that may be wrong where thresholds are chosen.
        held_out: crops of the unlabelled set that no network learnt from.
        reference_crops: the other crops of that set; they choose the band, and the service measures drift from them.
        cache: folder for scores.
        output: the file for what the cascade would say of people it had never seen.

    Returns:
        The folder of the bundle.
    """
    networks = [Network(bundle, "cpu") for bundle in (small, large)]

    def ask(crops: Sequence[Crop]) -> Pair:
        return Pair(*(cached_scores(network, crops, cache) for network in networks))

    at_home = ask(reference_crops)
    near, far = Pair(said[0].scores, said[1].scores), Pair(said[0].far, said[1].far)
    collections, labels = np.array([crop.collection for crop in labelled]), labels_of(labelled)
    kinds = [collections == name for name in dict.fromkeys(collections.tolist())]
    band = choose_band(at_home, [(Pair(near.small[kind], near.large[kind]), labels[kind]) for kind in kinds])
    of_strangers = Strangers(near.together(band), far.together(band), said[0].folds)
    thresholds = thresholds_of(threshold_crops(labelled, of_strangers), max_wrong)
    deferred = [share("Deferred, crops of the unlabelled set that are not held out", at_home.deferred(band))]
    sets = {}
    for kind, crops in ((HELD_OUT, held_out.everything), (EASY, held_out.easy)):
        if crops:
            pair = ask(crops)
            sets[kind] = ScoredCrops(crops, pair.together(band))
            deferred.append(share(f"Deferred, {kind}", pair.deferred(band)))
    sets |= stranger_sets(labelled, of_strangers)
    asked = Strangers(near.deferred(band).astype(float), far.deferred(band).astype(float), said[0].folds)
    deferred += [
        share(f"Deferred, {kind}", scored.scores > 0) for kind, scored in stranger_sets(labelled, asked).items()
    ]
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
        metrics=[*metrics(sets, thresholds), *deferred],
        reference=reference_of(reference_crops, at_home.together(band), thresholds),
    )
    path = place(models, name, {"manifest.json": to_json(manifest)}, check=lambda draft: draft)
    write_evaluation(results / "evaluation.json", manifest, all_slices(sets), by_person(sets[STRANGERS]))
    of_strangers.write(output)
    return path
