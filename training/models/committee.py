"""A cross-validation committee: each member is trained on all folds but its own, and all of them answer together.

What a member says of its own fold is said of people it has never seen, so the same training gives the error rate on
strangers, labels for unlabelled crops that no network gave to what it was trained on, and, as the mean of the members,
a network to which every crop contributed. Krogh and Vedelsby 1995, "Neural network ensembles, cross validation, and
active learning".
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from eyestate.bundle import Bundle
from training.data.datasets import Crop, DataError, LabelledCrop, fingerprint, sources
from training.data.folds import FOLDS, deal
from training.data.labels import Label, write_labels
from training.labelling.pseudo_label import pseudo_labels
from training.models.learner import Device, Learner, TrainingCrops, balanced_weights, torch_device
from training.models.member import Member, MemberSettings, load_member, train_member
from training.models.strangers import FILE, sample, score_strangers
from training.runs import claim, outcome, sha256

BELIEFS: Final = "beliefs.csv"


class Committee(Learner):
    """The mean of the members' log-odds, as one network."""

    def __init__(self, members: Sequence[Learner]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.side = members[0].side
        self.temperature = 1.0

    def member_logits(self, crops: torch.Tensor) -> torch.Tensor:
        """uint8 grey crops (N, side, side) to each member's log-odds of "open" (members, N)."""
        return torch.stack([member(crops) for member in self.members])

    def p_open(self, crops: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.member_logits(crops).mean(dim=0) / self.temperature)

    def apply_temperature(self, temperature: float) -> None:
        self.temperature *= temperature


def train_committee(
    labelled: Sequence[LabelledCrop],
    pool: Sequence[Crop],
    settings: MemberSettings,
    output: Path,
    *,
    shares: Mapping[str, float],
    start: Path | None = None,
    device: Device = "auto",
) -> list[Label]:
    """Train all members, score for each what it never saw; a killed call continues where it was.

    Args:
        labelled: crops of people; those with a target are trained towards that.
        pool: crops without a label. A first committee does not learn from them, and all its members score each; where
            they have targets they are dealt into folds too, and each is scored by the member that did not see it.
        settings: of each member; its seed is that of the first one.
        output: ``fold_<k>`` are the members' runs, ``beliefs.csv`` is what they say of the pool, ``strangers.npz`` of
            the labelled crops.
        shares: of the draws, by collection.
        start: the folder of the committee whose members to start from.
        device: to train and score on.

    Returns:
        The beliefs about the pool.

    Raises:
        DataError: a collection has no share or too few people, or ``start`` is another committee than this one follows.
    """
    learnt_from = [crop for crop in pool if isinstance(crop, LabelledCrop)]
    crops = [*labelled, *learnt_from]
    pool_folds = deal(learnt_from) if learnt_from else np.empty(0, dtype=np.int64)
    folds = np.concatenate([deal(labelled), pool_folds])
    claim(
        output,
        {
            "settings": dataclasses.asdict(settings),
            "start": None if start is None else [sha256(outcome(run)) for run in members(start)],
            "shares": dict(shares),
            "data": {"train": fingerprint(crops), "pool": fingerprint(pool)},
            "sources": [dataclasses.asdict(source) for source in sources(crops)],
        },
    )
    decoded = cache(lambda: TrainingCrops(crops))

    def member(fold: int, unseen: Sequence[LabelledCrop], run: Path) -> Learner:
        weights = torch.zeros(len(crops), dtype=torch.float64)
        others = np.flatnonzero(folds != fold)
        weights[others] = balanced_weights([crops[place] for place in others.tolist()], shares)
        own = dataclasses.replace(settings, seed=settings.seed + fold)
        first = None if start is None else start / f"fold_{fold}"
        trained = train_member(decoded(), weights, sample(unseen), own, run, start=first, device=device)
        return load_member(trained).to(torch_device(device))

    said = score_strangers(labelled, output, member, pool=pool)
    believed = said[pool_folds, np.arange(len(pool))] if learnt_from else said.mean(axis=0)
    verdicts = pseudo_labels(pool, believed)
    write_labels(output / BELIEFS, verdicts)
    return verdicts


def members(run: Path) -> list[Path]:
    """The runs of a committee's members.

    Raises:
        DataError: the folder holds no finished committee.
    """
    if not (run / FILE).exists():
        raise DataError(f"{run} holds no finished committee; `python -m training committee` makes one")
    return [run / f"fold_{fold}" for fold in range(FOLDS)]


def load_committee(run: Path) -> Committee:
    """A trained committee in evaluation mode, loaded without pickle execution.

    Raises:
        DataError: the folder holds no finished committee.
    """
    return Committee([load_member(outcome(member)) for member in members(run)]).eval()


def shipped_committee(bundle: Bundle) -> Committee:
    """The committee of a bundle, in evaluation mode, from the weights in its ONNX graph.

    What follows a committee, such as a distillation, can so be made from what ships, without the run that it came from.

    Raises:
        DataError: the bundle holds another kind of network.
    """
    graph = onnx.load(bundle.onnx).graph
    stored = {weight.name.removesuffix(".fp16"): weight for weight in graph.initializer}
    members = []
    for number in itertools.count():
        prefix = f"classifier.members.{number}."
        weights = {
            name.removeprefix(prefix): torch.from_numpy(numpy_helper.to_array(weight).astype(np.float32))
            for name, weight in stored.items()
            if name.startswith(prefix)
        }
        if not weights:
            break
        members.append(_shipped_member(weights, bundle.manifest.input.shape[-1]))
    if len(members) != FOLDS:
        raise DataError(f"{bundle.path} holds no committee of {FOLDS} networks")
    committee = Committee(members).eval()
    if bundle.manifest.calibration:
        committee.temperature = bundle.manifest.calibration.temperature
    return committee


def _shipped_member(weights: Mapping[str, torch.Tensor], side: int) -> Member:
    """A member from its exported weights, whose batch norms are folded into the convolutions before them."""
    member = Member({"input_side": side})
    convolution = ""
    with torch.no_grad():
        for name, layer in member.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                convolution = name
                layer.weight.copy_(weights[f"{name}.weight"])
                if layer.bias is not None:
                    layer.bias.copy_(weights[f"{name}.bias"])
            elif isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()
                layer.running_var.fill_(1 - layer.eps)  # type: ignore[union-attr]  # batch norms here have one
                layer.bias.copy_(weights[f"{convolution}.weight_bias"])
    return member
