"""The model card of a bundle: what it is for, what it was trained on, how good it is and where it is not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from eyestate.bundle import Card, CascadeManifest, DataSource, Manifest, Metric, Thresholds, Training
from training.evaluation.results import Slice

INTENDED_USE = """\
## Intended use

Scoring crops of single eyes cut from faces, from 24 px a side on: blink and drowsiness measures, choosing photographs
in which nobody blinks, checking face images for documents. It looks at one eye of one moment; a decision about a person
needs more than that. It does not find eyes, and what it says of an image without an eye means nothing."""
LICENCES = """\
The MRL Eye Dataset and the unlabelled eye crops are research data without a licence to redistribute; none of their
images is part of this bundle. The starting weights are FaceNet's, trained on CASIA-WebFace, a set of face photographs
collected for research. Check all three before you use this model commercially. The code that made the bundle is under
Apache-2.0."""
BELIEVED = (
    ", trained towards what networks believed of them that had not been trained on them, and what people answered "
    "about the most doubtful (at most 250)"
)
TAUGHT = ", in changed views, towards what the teacher says of each view"


def model_card(manifest: Manifest, slices: Iterable[Slice]) -> str:
    """The card as Markdown.

    Args:
        manifest: of the bundle.
        slices: the EER by slice on the test subjects.
    """
    training = manifest.training
    sources = "\n".join(_source(source, BELIEVED if training.teacher is None else TAUGHT) for source in training.data)
    people = sum(len(source.subjects) for source in training.data)
    return f"""\
# {manifest.name} {manifest.version}

Tells whether the eye in a crop is open. The score is P(open), 0 to 1.

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

Subjects of MRL's validation and test sets and the held-out quarter of the unlabelled crops were never trained on.
Images that stand in both classes were left out.

{LICENCES}

{_results(manifest.metrics, slices)}

## Limits

- Most of what it learnt are infrared crops of {people} people. Augmentation imitated ordinary cameras; children and
  make-up it could not.
- Half-shut eyes have no clear label; expect scores between the thresholds.
- Among the attributes of the data only the recorded gender touches on fairness; skin tone and age were not recorded, so
  nothing can be said about them.
"""


def with_section(card: str, title: str, body: str) -> str:
    """The card with a section of its own for ``title``: in the place of the one it had, else at the end."""
    before, found, rest = card.partition(f"## {title}\n")
    after = rest.partition("\n## ")[2] if found else ""
    section = f"{before.rstrip()}\n\n## {title}\n\n{body.strip()}\n"
    return f"{section}\n## {after}" if after else section


def write_section(card: Path, title: str, body: str) -> None:
    """``with_section`` on a card's file; where there is none, none is made."""
    if card.exists():
        draft = card.with_suffix(".draft")
        draft.write_text(with_section(card.read_text(), title, body))
        draft.replace(card)


def cascade_card(manifest: CascadeManifest, slices: Iterable[Slice]) -> str:
    """The card of a cascade as Markdown.

    Args:
        manifest: of the bundle.
        slices: the EER by slice on the test subjects.
    """
    quick, thorough, unsure = manifest.quick.name, manifest.thorough.name, manifest.unsure
    return f"""\
# {manifest.name} {manifest.version}

Tells whether the eye in a crop is open. [`{quick}`](../{quick}/README.md) answers; where its score lies between
{unsure.low:.3f} and {unsure.high:.3f}, [`{thorough}`](../{thorough}/README.md) is asked, and its score counts.
The score is P(open), 0 to 1.

| | |
|---|---|
| Networks | `{quick}`, SHA-256 `{manifest.quick.sha256}`; `{thorough}`, SHA-256 `{manifest.thorough.sha256}` |
| Asked twice between | {unsure.low:.3f} and {unsure.high:.3f}: {unsure.rule} |
{_states(manifest.thresholds)}
{_reference(manifest)}| Made | {manifest.created:%Y-%m-%d} |

{INTENDED_USE}

## Training data

That of its networks; their cards say which, and what they cannot do.

{_results(manifest.metrics, slices)}
"""


def _states(thresholds: Thresholds) -> str:
    return (
        f"| States | closed up to {thresholds.closed:.3f}, open from {thresholds.open:.3f}, uncertain in between |\n"
        f"| Thresholds | {thresholds.rule} |"
    )


def _results(metrics: Iterable[Metric], slices: Iterable[Slice]) -> str:
    return f"""\
## Results

The equal error rate (EER) is the rate at which as many closed eyes are taken for open as open eyes for closed.
Crops of MRL are frames of videos, so the interval over subjects is the one to trust for new people; it is wide because
the subjects are few. Held-out crops are judged by the labels on which two or more people agreed.

{_metrics(metrics)}

On MRL's test subjects by slice (an EER needs both states in the slice; brightness is the mean grey value, sharpness
the variance of the Laplacian at 24 px):

{_slices(slices)}"""


def _origin(training: Training) -> str:
    if training.teacher is None:
        return f"starting weights `{training.backbone}`"
    return f"distilled from `{training.teacher.name}`, SHA-256 `{training.teacher.sha256[:16]}…`"


def _reference(manifest: Card) -> str:
    reference = manifest.reference
    if reference is None:
        return ""
    of = f"{reference.crops:,} {reference.data}, {reference.uncertain:.1%} of them uncertain"
    return f"| Drift is measured from | {of} (`reference` in `manifest.json`) |\n"


def _metrics(metrics: Iterable[Metric]) -> str:
    rows = [f"| {m.name} | {m.n:,} | {m.value:.4f} | {m.low:.4f} to {m.high:.4f} | {m.interval} |" for m in metrics]
    return "\n".join(["| Figure | Crops | Value | Interval | Kind |", "|---|--:|--:|--:|---|", *rows])


def _slices(slices: Iterable[Slice]) -> str:
    rows = [
        f"| {s.attribute} | {s.value} | {s.crops:,} | {s.open_share:.2f} | {'–' if s.eer is None else f'{s.eer:.4f}'} |"
        for s in slices
    ]
    return "\n".join(["| Attribute | Value | Crops | Share open | EER |", "|---|---|--:|--:|--:|", *rows])


def _source(source: DataSource, unlabelled: str) -> str:
    people = f" of {len(source.subjects)} subjects ({', '.join(source.subjects)})" if source.subjects else unlabelled
    return f"- {source.name}: {source.crops:,} crops{people}; fingerprint `{source.fingerprint[:16]}`"
