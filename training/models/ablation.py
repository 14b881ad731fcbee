"""An ablation study: what the choices in the training of a committee's member are worth, each over several seeds.

Every variant differs from a member of the first committee in one thing. All are trained for the same short time on the
people of four folds, and judged by the people of the fifth and by the held-out crops.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Final, Literal

import numpy as np
import torch

from training.data.datasets import MRL, UNLABELLED, Crop, LabelledCrop, sources
from training.data.folds import deal
from training.evaluation.eer import equal_error_rate
from training.labelling.pseudo_label import doubt_labels, soft_targets
from training.models.committee import Committee
from training.models.learner import (
    Device,
    Learner,
    TrainingCrops,
    balanced_weights,
    predict,
    predict_views,
    torch_device,
)
from training.models.member import MemberSettings, load_member, train_member
from training.models.strangers import sample
from training.runs import claim

FOLD: Final = 0  # whose people judge
HELD_OUT: Final = "held-out crops"
JUDGED: Final = 4_000  # crops of a collection, at most about


@dataclass(frozen=True, slots=True)
class Variant:
    """One difference from the member that ships.

    Attributes:
        name: what differs.
        settings: to replace.
        collections: of people, to learn from; all where it is None.
        shares: of the draws, to replace.
        doubt: labels of crops that MRL did not label are evidence only (``doubt_labels``).
        pool: what to learn from the unlabelled crops: nothing, what is believed of them, or which is likelier.
    """

    name: str
    settings: Mapping[str, str | int | float] = dataclasses.field(default_factory=dict)
    collections: frozenset[str] | None = None
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    doubt: bool = False
    pool: Literal["nothing", "beliefs", "verdicts"] = "nothing"


BASELINE: Final = Variant("labels alone, as the first committee")
VARIANTS: Final = (
    BASELINE,
    Variant("MRL's crops alone", collections=frozenset({MRL})),
    Variant("MRL's and the colour crops", collections=frozenset({MRL, "colour"})),
    Variant("input of 64 px", {"input_side": 64}),
    Variant("random weights to start from", {"backbone": ""}),
    Variant("no moving average of the weights", {"average_decay": 0.0}),
    Variant("sharpness-aware minimization", {"radius": 0.05}),
    Variant("no augmentation", {"augmentation": 0.0}),
    Variant("half the augmentation", {"augmentation": 0.5}),
    Variant("one and a half times the augmentation", {"augmentation": 1.5}),
    Variant("twice as many draws", {"epochs": 2}),
    Variant("twice the share of colour crops", shares={"colour": 0.3}),
    Variant("doubtful labels", doubt=True),
    Variant("the unlabelled crops too, hard targets", pool="verdicts"),
    Variant("the unlabelled crops too, soft targets", pool="beliefs"),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The EERs of one network, by what judged it."""

    variant: str
    seed: int
    eers: dict[str, float]


@dataclass(frozen=True, slots=True)
class Believed:
    """What a committee says of crops, each by the member that did not learn from it.

    Attributes:
        labelled: the labelled crops, with what to train towards in the light of it (``doubt_labels``).
        pool: the unlabelled crops, with what to train towards.
    """

    labelled: Sequence[LabelledCrop]
    pool: Sequence[LabelledCrop]


def believe(labelled: Sequence[LabelledCrop], pool: Sequence[Crop], committee: Committee) -> Believed:
    """What a committee that learnt from all of these crops says of them."""
    scores = np.full(len(labelled), 0.5)
    beliefs = np.empty(len(pool))
    folds, pool_folds = deal(labelled), deal(pool)
    doubtful = np.array([crop.collection != MRL for crop in labelled])
    for fold, member in enumerate(committee.members):
        assert isinstance(member, Learner)
        own, own_pool = np.flatnonzero(doubtful & (folds == fold)), np.flatnonzero(pool_folds == fold)
        scores[own] = predict(member, [labelled[place] for place in own.tolist()])
        beliefs[own_pool] = predict_views(member, [pool[place] for place in own_pool.tolist()])
    believed = {crop.name: float(belief) for crop, belief in zip(pool, beliefs, strict=True)}
    return Believed(doubt_labels(labelled, scores), soft_targets(pool, believed, {}))


def ablate(
    labelled: Sequence[LabelledCrop],
    believed: Believed,
    held_out: Sequence[LabelledCrop],
    settings: MemberSettings,
    output: Path,
    *,
    shares: Mapping[str, float],
    seeds: Sequence[int],
    variants: Sequence[Variant] = VARIANTS,
    device: Device = "auto",
) -> list[Outcome]:
    """Train and judge every variant with every seed; a killed call continues where it was.

    Args:
        labelled: crops of people, to learn from and to judge by.
        believed: what is believed of them and of the unlabelled crops, for the variants that learn from that.
        held_out: labelled crops of the unlabelled set, to judge by; may be empty.
        settings: of the member that ships, for the time that is to be spent.
        output: ``<variant>/<seed>`` are the runs.
        shares: of the draws, by collection.
        seeds: of the trainings.
        variants: to compare; the first one is what the others differ from.
        device: to train and score on.
    """
    folds = deal(labelled)
    strangers = [labelled[place] for place in np.flatnonzero(folds == FOLD).tolist()]
    judges = {
        **{
            name: sample([crop for crop in strangers if crop.collection == name], JUDGED)
            for name in collections_of(strangers)
        },
        **({HELD_OUT: held_out} if held_out else {}),
    }
    all_folds = np.concatenate([folds, deal(believed.pool)])
    crops = TrainingCrops([*labelled, *believed.pool])
    outcomes = []
    for seed in seeds:
        for number, variant in enumerate(variants):
            run = output / str(number) / str(seed)
            chosen = dataclasses.replace(settings, **{**variant.settings, "seed": seed})  # type: ignore[arg-type]  # fields of several types
            targeted = _targeted(variant, labelled, believed)
            drawn = [place for place in np.flatnonzero(all_folds != FOLD).tolist() if _learnt(variant, targeted[place])]
            learnt = [targeted[place] for place in drawn]
            weights = torch.zeros(len(targeted), dtype=torch.float64)
            weights[drawn] = balanced_weights(learnt, {**shares, **variant.shares})
            claim(
                run,
                {
                    "settings": dataclasses.asdict(chosen),
                    "variant": variant.name,
                    "sources": [dataclasses.asdict(source) for source in sources(learnt)],
                },
            )
            checkpoint = train_member(
                crops.towards(targeted), weights, sample(strangers), chosen, run, start=None, device=device
            )
            network = load_member(checkpoint).to(torch_device(device))
            eers = {
                name: equal_error_rate(predict(network, judging), [crop.label for crop in judging])
                for name, judging in judges.items()
            }
            outcomes.append(Outcome(variant.name, seed, eers))
    return outcomes


def _targeted(variant: Variant, labelled: Sequence[LabelledCrop], believed: Believed) -> list[LabelledCrop]:
    """All crops, labelled and not, with what a variant trains them towards."""
    people = believed.labelled if variant.doubt else labelled
    pool = [crop.labelled(crop.label) for crop in believed.pool] if variant.pool == "verdicts" else believed.pool
    return [*people, *pool]


def _learnt(variant: Variant, crop: LabelledCrop) -> bool:
    """Whether a variant learns from a crop."""
    if crop.collection == UNLABELLED:
        return variant.pool != "nothing"
    return variant.collections is None or crop.collection in variant.collections


def collections_of(crops: Sequence[LabelledCrop]) -> list[str]:
    """The collections of the crops, in the order in which they first occur."""
    return list(dict.fromkeys(crop.collection for crop in crops))


def write_outcomes(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write a row per network as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    judges = list(outcomes[0].eers)
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["variant", "seed", *judges])
        rows.writerows(
            [outcome.variant, outcome.seed, *(f"{outcome.eers[judge]:.5f}" for judge in judges)] for outcome in outcomes
        )


def summary(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table: mean, lowest and highest EER over the seeds, by variant and judge."""
    judges = list(outcomes[0].eers)
    lines = [f"| | {' | '.join(judges)} |", f"|---|{'--:|' * len(judges)}"]
    for variant in dict.fromkeys(outcome.variant for outcome in outcomes):
        cells = []
        for judge in judges:
            eers = [outcome.eers[judge] for outcome in outcomes if outcome.variant == variant]
            cells.append(f"{mean(eers):.4f} ({min(eers):.4f} to {max(eers):.4f})")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
