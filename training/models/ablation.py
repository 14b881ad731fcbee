"""An ablation study: what the choices in the training of a committee's member are worth, each over several seeds.

Every variant differs from the member that ships in one thing. All are trained for the same short time on the people of
four folds, and judged by the people of the fifth and by the held-out crops.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Final

import numpy as np
import torch

from training.data.datasets import MRL, LabelledCrop, sources
from training.data.folds import deal
from training.evaluation.eer import equal_error_rate
from training.models.learner import Device, TrainingCrops, balanced_weights, predict, torch_device
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
        collections: to learn from; all where it is None.
    """

    name: str
    settings: Mapping[str, str | int | float] = dataclasses.field(default_factory=dict)
    collections: frozenset[str] | None = None


BASELINE: Final = Variant("as it ships")
VARIANTS: Final = (
    BASELINE,
    Variant("MRL's crops alone", collections=frozenset({MRL})),
    Variant("MRL's and the colour crops", collections=frozenset({MRL, "colour"})),
    Variant("input of 64 px", {"input_side": 64}),
    Variant("random weights to start from", {"backbone": ""}),
    Variant("no moving average of the weights", {"average_decay": 0.0}),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The EERs of one network, by what judged it."""

    variant: str
    seed: int
    eers: dict[str, float]


def ablate(
    labelled: Sequence[LabelledCrop],
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
    crops = TrainingCrops(labelled)
    outcomes = []
    for seed in seeds:
        for number, variant in enumerate(variants):
            run = output / str(number) / str(seed)
            chosen = dataclasses.replace(settings, **{**variant.settings, "seed": seed})  # type: ignore[arg-type]  # fields of several types
            drawn = [
                place
                for place in np.flatnonzero(folds != FOLD).tolist()
                if variant.collections is None or labelled[place].collection in variant.collections
            ]
            weights = torch.zeros(len(labelled), dtype=torch.float64)
            weights[drawn] = balanced_weights([labelled[place] for place in drawn], shares)
            learnt_from = [dataclasses.asdict(source) for source in sources([labelled[place] for place in drawn])]
            claim(run, {"settings": dataclasses.asdict(chosen), "sources": learnt_from})
            checkpoint = train_member(crops, weights, sample(strangers), chosen, run, start=None, device=device)
            network = load_member(checkpoint).to(torch_device(device))
            eers = {
                name: equal_error_rate(predict(network, judging), [crop.label for crop in judging])
                for name, judging in judges.items()
            }
            outcomes.append(Outcome(variant.name, seed, eers))
    return outcomes


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
