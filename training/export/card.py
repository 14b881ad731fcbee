"""The model card of a bundle: what it is for, what it was trained on, how good it is and where it is not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eyestate.bundle import Card, CascadeManifest, DataSource, Manifest, Metric, Thresholds, Training
from training.data.datasets import UNLABELLED, DataError
from training.evaluation import behaviour, calibration
from training.evaluation.results import Slice
from training.files import read_json, write_json

INTENDED_USE = """\
## Intended use

Scoring crops of single eyes cut from faces, at least 24 px a side: measuring blinks and drowsiness, choosing
photographs in which nobody blinks, checking face images for documents. A score describes one eye at one moment; a
decision about a person needs more than that. The model does not locate eyes, and its score of an image without an eye
is meaningless."""
LICENCES = """\
The data sets are research data without a licence to redistribute, some of them non-commercial; none of their images is
part of this bundle. The pretrained weights are FaceNet's, trained on CASIA-WebFace, a set of face photographs
collected for research. Check all of them before you use this model commercially. The code that made the bundle is
licensed under Apache-2.0."""
LIMITS = """\
## Limits

- Half-shut eyes have no clear label; expect scores between the thresholds.
- Most of the labels of colour photos, web faces and made-up eyes come from programs or folders; a few in a hundred are
  wrong, so error rates on them cannot fall to 0.
- Of the attributes that bear on fairness, the data record gender only, and only in MRL. Skin tone and age are not
  recorded, so nothing can be said about them."""
HOW = """\
Each of the five networks was trained on four fifths of the people; error rates on people are those of the network that
never saw them, which knows a fifth less than the five together."""
DISTILLED = """\
The network was trained towards what the five of its teacher say of augmented views of these crops; what it would say of
strangers is measured by five such networks, each trained for a shorter time on four fifths of the people, towards the
one of the five that never saw the others."""
SELF_TRAINED = (
    ", trained towards what networks believe of them that had not been trained on them, and people's answers about the "
    "most doubtful"
)


def write_evaluation(path: Path, manifest: Card, slices: Sequence[Slice], by_person: Sequence[float]) -> None:
    """Write what a card needs to know of a model beyond its manifest, as ``card`` reads it."""
    found = {
        "model": manifest.name,
        "sha256": manifest.sha256,
        "slices": [dataclasses.asdict(item) for item in slices],
        "by_person": list(by_person),
    }
    write_json(path, found)


def card(manifest: Manifest | CascadeManifest, results: Path) -> str:
    """The card as Markdown; equal inputs give equal text.

    Args:
        manifest: of the bundle.
        results: the folder of what was measured of it: ``evaluation.json``, ``calibration.json``, ``behaviour.json``.

    Raises:
        DataError: one of the files is missing, damaged or of another model.
    """
    make = "cascade" if isinstance(manifest, CascadeManifest) else f"export --name {manifest.name}"
    evaluation = _read(results / "evaluation.json", manifest, make)
    fits = _read(results / "calibration.json", manifest, f"calibration --model {manifest.name}")
    behaved = _read(results / "behaviour.json", manifest, f"behaviour --model {manifest.name}")
    sections = [
        _cascade(manifest) if isinstance(manifest, CascadeManifest) else _network(manifest),
        _results(manifest.metrics, [Slice(**item) for item in evaluation["slices"]], evaluation["by_person"]),
        *([] if isinstance(manifest, CascadeManifest) else [LIMITS]),
        f"## Calibration\n\n{calibration.section([calibration.Fit(**fit) for fit in fits['left_out']], fits['error'])}",
        f"## Behaviour\n\n{behaviour.table(behaviour.Results(**behaved))}",
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _read(path: Path, manifest: Card, maker: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = read_json(path, maker)
    if found["sha256"] != manifest.sha256:
        raise DataError(f"{path} is of another {manifest.name}; `python -m training {maker}` makes it anew")
    return found


def _network(manifest: Manifest) -> str:
    training = manifest.training
    sources = "\n".join(map(_source, training.data))
    return f"""\
# {manifest.name} {manifest.version}

Classifies a crop of one eye as open or closed. The score is P(open), from 0 to 1.

| | |
|---|---|
| Network | {training.architecture}; {_origin(training)} |
| Input | one eye per crop, any size from 8 px a side, resized to {manifest.input.side}×{manifest.input.side} grey |
{_states(manifest.thresholds)}
| File | `model.onnx`, weights in fp16, SHA-256 `{manifest.sha256}` |
| ONNX Runtime against PyTorch | largest score difference {manifest.parity:.5f} on real crops |
{_reference(manifest)}| Made | {manifest.created:%Y-%m-%d}, code at `{training.git_revision}` |

{INTENDED_USE}

## Training data

{sources}

{HOW if training.teacher is None else DISTILLED} The held-out quarter of the unlabelled crops was never
trained on, nor was what nearly equals one of them. Images that occur in both classes were left out.

{LICENCES}"""


def _cascade(manifest: CascadeManifest) -> str:
    small, large, band = manifest.small.name, manifest.large.name, manifest.deferral_band
    return f"""\
# {manifest.name} {manifest.version}

Classifies a crop of one eye as open or closed. [`{small}`](../{small}/README.md) scores every crop; crops that it
scores between {band.low:.3f} and {band.high:.3f} are deferred to [`{large}`](../{large}/README.md), whose
score counts. The score is P(open), from 0 to 1.

| | |
|---|---|
| Networks | `{small}`, SHA-256 `{manifest.small.sha256}`; `{large}`, SHA-256 `{manifest.large.sha256}` |
| Deferral band | {band.low:.3f} to {band.high:.3f}: {band.rule} |
{_states(manifest.thresholds)}
{_reference(manifest)}| Made | {manifest.created:%Y-%m-%d} |

{INTENDED_USE}

## Training data

That of its networks; their cards describe it, and the limits of the networks."""


def _states(thresholds: Thresholds) -> str:
    return (
        f"| States | closed up to {thresholds.closed:.3f}, open from {thresholds.open:.3f}, uncertain in between |\n"
        f"| Thresholds | {thresholds.rule} |"
    )


def _results(metrics: Iterable[Metric], slices: Iterable[Slice], by_person: Sequence[float]) -> str:
    return f"""\
## Results

The equal error rate (EER) is the error rate at the threshold where the share of closed eyes taken for open equals the
share of open eyes taken for closed. The held-out crops are of the kind that the model is for; their labels are those of
their collection, about 1 to 2 in 100 of which contradict what people see. The easy part of them, on which two or more
people agree, leaves out half-shut eyes and flatters every model. All people of MRL and of the other collections are
scored by networks that never saw them. MRL's crops are frames of videos, so the interval over subjects is the one that
applies to new people.

{_metrics(metrics)}

{_spread(by_person)}

By slice (an EER needs both states in the slice; wrong is the share on the wrong side of 0.5; brightness is the mean
grey value, sharpness the variance of the Laplacian at 24 px):

{_slices(slices)}"""


def _spread(by_person: Sequence[float]) -> str:
    low, median, high = np.quantile(by_person, [0.25, 0.5, 0.75])
    return (
        f"The EER differs between people: of the {len(by_person)} of MRL with open and closed eyes it is at most "
        f"{low:.4f} for a quarter, {median:.4f} for half, {high:.4f} for three quarters, and {max(by_person):.4f} for "
        "the one it is worst for."
    )


def _origin(training: Training) -> str:
    if training.teacher is None:
        return f"pretrained weights `{training.backbone}`"
    return f"distilled from `{training.teacher.name}`, SHA-256 `{training.teacher.sha256[:16]}…`"


def _reference(manifest: Card) -> str:
    reference = manifest.reference
    if reference is None:
        return ""
    of = f"{reference.crops:,} {reference.data}, {reference.uncertain:.1%} of them uncertain"
    return f"| Reference for drift | {of} (`reference` in `manifest.json`) |\n"


def _metrics(metrics: Iterable[Metric]) -> str:
    rows = [f"| {m.name} | {m.n:,} | {m.value:.4f} | {m.low:.4f} to {m.high:.4f} | {m.interval} |" for m in metrics]
    return "\n".join(["| Figure | Crops | Value | Interval | Kind |", "|---|--:|--:|--:|---|", *rows])


def _slices(slices: Iterable[Slice]) -> str:
    rows = [
        f"| {s.of} | {s.attribute} | {s.value} | {s.crops:,} | {s.open_share:.2f} | "
        f"{'–' if s.eer is None else f'{s.eer:.4f}'} | {s.wrong:.1%} |"
        for s in slices
    ]
    return "\n".join(
        ["| Crops | Attribute | Value | Number | Share open | EER | Wrong |", "|---|---|---|--:|--:|--:|--:|", *rows]
    )


def _source(source: DataSource) -> str:
    people = SELF_TRAINED if source.name == UNLABELLED else f" of {source.people:,} people"
    return f"- {source.name}: {source.crops:,} crops{people}; fingerprint `{source.fingerprint[:16]}`"
