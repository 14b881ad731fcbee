"""Behavioural tests of a model, after CheckList (Ribeiro et al. 2020): what must, and must not, alter its verdict.

Minimum functionality: it tells clear cases apart. Invariance: changes of a crop that leave the eye as it was, up to a
stated limit, leave the verdict as it was. Direction: closing an eye step by step lowers the score.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter
from pydantic import BaseModel, ConfigDict
from scipy.ndimage import affine_transform
from scipy.stats import spearmanr
from tqdm import tqdm

from eyestate.arrays import Pixels
from eyestate.atomic import write_atomically
from eyestate.bundle import Card, Sha256
from eyestate.images import decode, to_input
from training.data.datasets import LabelledCrop, labels_of
from training.data.synthetic import CLOSED, OPEN, OPEN_FROM, Eye, random_eye, render
from training.evaluation.eer import Labels, Scores, equal_error_rate
from training.evaluation.reliability import expected_calibration_error, reliability

VERDICT: Final = 0.5  # from this score on an eye is rather open than closed
# What passes. All were set before the first measurement.
MAX_CHANGED: Final = 0.05  # share of verdicts that a change may turn
MAX_REVERSED: Final = 0.01  # share of states that it may turn from open to closed or back
MAX_EER: Final = 0.05  # without a change
MIN_FALLING: Final = 0.95  # share of the steps of a closing eye at which the score may not rise
TOLERANCE: Final = 0.02  # a rise of the score up to this is none
MIN_FALL: Final = 0.5  # from the open eye to the closed one, on average
STEPS: Final = 11
GENERATED: Final = "generated"

Change = Callable[[Pixels, np.random.Generator], Pixels | bytes]


class Model(Protocol):
    """What is tested: a ``Scorer``, or anything that scores like one."""

    @property
    def manifest(self) -> Card: ...

    def score(self, crops: Sequence[Pixels | bytes]) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class TestCrops:
    """Crops of one kind: grey pixels, uint8 (height, width), and their labels, 0 closed or 1 open."""

    __test__ = False  # not a test of pytest's

    name: str
    pixels: Sequence[Pixels]
    labels: Labels


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Undisturbed(_Part):
    """The crops of one kind as they are: their number, EER and expected calibration error."""

    crops: str
    n: int
    eer: float
    ece: float


class Invariance(_Part):
    """How one change affected the scores of one kind of crops.

    ``changed`` is the share of the crops whose score crossed ``VERDICT``, ``reversed`` of those whose state went from
    open to closed or back, ``difference`` the mean absolute difference of the scores.
    """

    behaviour: str
    change: str
    crops: str
    n: int
    changed: float
    reversed: float
    difference: float
    eer: float
    passed: bool


class Direction(_Part):
    """How the scores of generated eyes followed a change that closes them step by step.

    ``falling`` is the share of the steps at which the score did not rise by more than ``TOLERANCE``, ``correlation``
    Spearman's between step and score, negated, ``fall`` the difference of the first and the last score; the latter two
    are means over the eyes.
    """

    behaviour: str
    n: int
    falling: float
    correlation: float
    fall: float
    passed: bool


class Results(_Part):
    """All results of one model."""

    model: str
    version: str
    sha256: Sha256
    undisturbed: list[Undisturbed]
    invariances: list[Invariance]
    directions: list[Direction]

    @property
    def failures(self) -> list[str]:
        """The tests that failed, in words."""
        failures = [f"{u.crops}: EER {u.eer:.4f}" for u in self.undisturbed if not _functional(u)]
        failures += [
            f"{i.behaviour}, {i.change}, {i.crops}: {i.changed:.1%} of the verdicts changed, {i.reversed:.1%} reversed"
            for i in self.invariances
            if not i.passed
        ]
        failures += [
            f"{d.behaviour}: {d.falling:.1%} of the steps not rising, {d.fall:.2f} from open to closed"
            for d in self.directions
            if not d.passed
        ]
        return failures


def generated(count: int, seed: int = 0) -> list[Eye]:
    """Drawn eyes that are clear cases, in turn closed and open."""
    rng = np.random.default_rng(seed)
    return [random_eye(rng, rng.uniform(*(OPEN if number % 2 else CLOSED))) for number in range(count)]


def sample(name: str, crops: Sequence[LabelledCrop], most: int) -> TestCrops:
    """At most so many labelled crops, evenly from their order: of a video's frames, from all over it."""
    chosen = crops[:: -(-len(crops) // most)]
    return TestCrops(name, [decode(crop.data) for crop in chosen], labels_of(chosen))


def behaviour(model: Model, eyes: Sequence[Eye], real: Sequence[TestCrops] = ()) -> Results:
    """Run all tests on a model.

    Args:
        model: what is tested.
        eyes: drawn ones; both open and closed must occur.
        real: further crops, of each kind both open and closed ones; they get the changes that need no drawing.

    Raises:
        ValueError: crops of one kind lack a class.
    """
    drawn = TestCrops(
        GENERATED, [render(eye) for eye in eyes], np.array([int(eye.opening >= OPEN_FROM) for eye in eyes])
    )
    kinds = [drawn, *real]
    before = {kind.name: _scores(model, kind.pixels) for kind in kinds}
    tests = [(name, how, kind, change) for kind in kinds for name, how, change in _changes()]
    invariances = []
    with tqdm(total=len(tests) + len(REDRAWINGS), desc="changes", unit="change") as progress:
        for name, how, kind, change in tests:
            rng = np.random.default_rng(0)
            after = _scores(model, [change(crop, rng) for crop in kind.pixels])
            invariances.append(_invariance(model.manifest, (name, how), kind, before[kind.name], after))
            progress.update()
        for (name, how), redraw in REDRAWINGS.items():
            after = _scores(model, [render(redraw(eye)) for eye in eyes])
            invariances.append(_invariance(model.manifest, (name, how), drawn, before[GENERATED], after))
            progress.update()
    manifest = model.manifest
    return Results(
        model=manifest.name,
        version=manifest.version,
        sha256=manifest.sha256,
        undisturbed=[_undisturbed(kind, before[kind.name]) for kind in kinds],
        invariances=invariances,
        directions=[_direction(model, name, films, eyes) for name, films in FILMS.items()],
    )


def table(results: Results) -> str:
    """The results in Markdown: a row for each behaviour and kind of crops, with the worst of its changes."""
    kinds = [row.crops for row in results.undisturbed]
    by_behaviour: dict[tuple[str, str], list[Invariance]] = {(name, kind): [] for name in LIMITS for kind in kinds}
    for row in results.invariances:
        by_behaviour[row.behaviour, row.crops].append(row)
    undisturbed = [
        (row.crops, f"{row.n:,}", f"{row.eer:.4f}", f"{row.ece:.4f}", _yes_no(_functional(row)))
        for row in results.undisturbed
    ]
    invariances = [
        (
            *(name, LIMITS[name], kind),
            f"{max(row.changed for row in rows):.1%}",
            f"{max(row.reversed for row in rows):.1%}",
            f"{max(row.difference for row in rows):.3f}",
            f"{max(row.eer for row in rows):.4f}",
            _yes_no(all(row.passed for row in rows)),
        )
        for (name, kind), rows in by_behaviour.items()
        if rows
    ]
    directions = [
        (row.behaviour, row.n, f"{row.falling:.1%}", f"{row.correlation:.3f}", f"{row.fall:.3f}", _yes_no(row.passed))
        for row in results.directions
    ]
    return "\n".join(
        [
            _table("Clear cases | Crops | EER | Expected calibration error | Passed", undisturbed),
            _table(
                "Must not matter | Up to | Crops | Verdicts changed | Open for closed or back | Difference | EER | "
                "Passed",
                invariances,
            ),
            _table(
                "Must lower the score | Eyes | Steps that do | Spearman's correlation | From open to closed | Passed",
                directions,
            ),
        ]
    )


def write(results: Results, path: Path) -> None:
    """Write the results as JSON, whole or not at all."""
    write_atomically(path, results.model_dump_json(indent=2) + "\n")


def _mirrored(crop: Pixels, _: np.random.Generator) -> Pixels:
    return np.ascontiguousarray(crop[:, ::-1])


def _brighter(factor: float) -> Change:
    return lambda crop, _: np.asarray(ImageEnhance.Brightness(Image.fromarray(crop)).enhance(factor))


def _contrasted(factor: float) -> Change:
    return lambda crop, _: np.asarray(ImageEnhance.Contrast(Image.fromarray(crop)).enhance(factor))


def _gamma(exponent: float) -> Change:
    curve = np.rint(255 * (np.arange(256) / 255) ** exponent).astype(np.uint8)
    return lambda crop, _: np.asarray(curve[crop], np.uint8)


def _cast(red: float, green: float, blue: float) -> Change:
    """Grey to RGB under light of a colour: the service takes the luma of it."""
    gains = np.array([red, green, blue])
    return lambda crop, _: np.rint((crop[..., None] * gains).clip(0, 255)).astype(np.uint8)


def _resized(side: int) -> Change:
    return lambda crop, _: to_input(crop, side)


def _jpeg(quality: int) -> Change:
    def change(crop: Pixels, _: np.random.Generator) -> bytes:
        file = io.BytesIO()
        Image.fromarray(crop).save(file, "JPEG", quality=quality)
        return file.getvalue()

    return change


def _blurred(share: float) -> Change:
    """Gaussian blur with a standard deviation of a share of the crop's width."""
    return lambda crop, _: np.asarray(
        Image.fromarray(crop).filter(ImageFilter.GaussianBlur(share * crop.shape[1])), np.uint8
    )


def _noisy(deviation: float) -> Change:
    """Gaussian noise with a standard deviation in grey levels."""
    return lambda crop, rng: np.rint((crop + rng.normal(0, deviation, crop.shape)).clip(0, 255)).astype(np.uint8)


def _shifted(share: float) -> Change:
    """Move the eye by a share of the side, in a direction drawn at random."""

    def change(crop: Pixels, rng: np.random.Generator) -> Pixels:
        angle = rng.uniform(0, 2 * np.pi)
        return _moved(crop, offset=share * np.array(crop.shape) * (np.sin(angle), np.cos(angle)))

    return change


def _zoomed(factor: float) -> Change:
    return lambda crop, _: _moved(crop, zoom=factor)


def _rotated(degrees: float) -> Change:
    return lambda crop, _: _moved(crop, degrees=degrees)


def _moved(
    crop: Pixels, *, zoom: float = 1, degrees: float = 0, offset: npt.NDArray[np.float64] | None = None
) -> Pixels:
    """Zoom and turn about the middle, then shift by (rows, columns); what lay outside the crop repeats its edge."""
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / zoom
    middle = (np.array(crop.shape) - 1) / 2
    start = middle - matrix @ (middle + (0 if offset is None else offset))
    moved = affine_transform(crop.astype(float), matrix, start, order=3, mode="nearest")
    return np.asarray(np.rint(moved).clip(0, 255), np.uint8)


# The limit of each behaviour, in words for the table, and the changes up to it.
_INVARIANCES: Final[dict[str, tuple[str, dict[str, Change]]]] = {
    "mirroring": ("–", {"left for right": _mirrored}),
    "brightness": ("× 0.6 to × 1.6", {f"× {f:g}": _brighter(f) for f in (0.6, 0.8, 1.25, 1.6)}),
    "contrast": ("× 0.6 to × 1.6", {f"× {f:g}": _contrasted(f) for f in (0.6, 0.8, 1.25, 1.6)}),
    "gamma": ("0.6 to 1.6", {f"{g:g}": _gamma(g) for g in (0.6, 0.8, 1.25, 1.6)}),
    "colour": (
        "grey as RGB, warm and cool light",
        {"grey as RGB": _cast(1, 1, 1), "warm": _cast(1.25, 1, 0.65), "cool": _cast(0.8, 1, 1.3)},
    ),
    "size": ("16 to 128 px", {f"{side} px": _resized(side) for side in (16, 24, 32, 48, 96, 128)}),
    "JPEG quality": ("30 to 95", {f"{quality}": _jpeg(quality) for quality in (30, 50, 75, 95)}),
    "crop shift": ("10 % of the side", {f"{s:.0%}": _shifted(s) for s in (0.05, 0.1)}),
    "zoom": ("× 0.9 to × 1.2", {f"× {f:g}": _zoomed(f) for f in (0.9, 1.1, 1.2)}),
    "rotation": ("10°", {f"{degrees}°": _rotated(degrees) for degrees in (-10, -5, 5, 10)}),
    "blur": ("2 % of the side", {f"{s:.0%}": _blurred(s) for s in (0.01, 0.02)}),
    "noise": ("8 grey levels", {f"{d}": _noisy(d) for d in (4, 8)}),
}
# What only a drawn eye can change.
_REDRAWN: Final[dict[str, tuple[str, dict[str, Callable[[Eye], Eye]]]]] = {
    "glasses": (
        "a dark frame",
        {
            "none": lambda eye: dataclasses.replace(eye, glasses=0.0),
            "a frame": lambda eye: dataclasses.replace(eye, glasses=0.8),
        },
    ),
    "skin tone": (
        "0.45 to 0.65 of white",
        {
            "dark": lambda eye: dataclasses.replace(eye, skin_tone=0.45),
            "light": lambda eye: dataclasses.replace(eye, skin_tone=0.65),
        },
    ),
    "gaze": (
        "a quarter of the eye's half width",
        {
            "left": lambda eye: dataclasses.replace(eye, gaze_x=-0.25),
            "right": lambda eye: dataclasses.replace(eye, gaze_x=0.25),
        },
    ),
}
REDRAWINGS: Final = {(name, how): redraw for name, (_, hows) in _REDRAWN.items() for how, redraw in hows.items()}
LIMITS: Final = {name: limit for name, (limit, _) in (*_INVARIANCES.items(), *_REDRAWN.items())}


def _closing(eye: Eye) -> list[Pixels]:
    """The lid falls."""
    return [render(dataclasses.replace(eye, opening=float(opening))) for opening in np.linspace(1, 0, STEPS)]


def _blinking(eye: Eye) -> list[Pixels]:
    """The lid is closed for ever more of the exposure: a mean of the open and the closed eye."""
    frames = (render(dataclasses.replace(eye, opening=opening)).astype(float) for opening in (1.0, 0.0))
    open_, closed = frames
    return [np.rint((1 - share) * open_ + share * closed).astype(np.uint8) for share in np.linspace(0, 1, STEPS)]


FILMS: Final[Mapping[str, Callable[[Eye], list[Pixels]]]] = {
    f"closing the eye in {STEPS - 1} steps": _closing,
    f"a blink during the exposure, {STEPS - 1} steps": _blinking,
}


def _changes() -> Iterator[tuple[str, str, Change]]:
    for name, (_, changes) in _INVARIANCES.items():
        for how, change in changes.items():
            yield name, how, change


def _scores(model: Model, crops: Sequence[Pixels | bytes]) -> Scores:
    return model.score(crops).astype(float)


def _undisturbed(kind: TestCrops, scores: Scores) -> Undisturbed:
    return Undisturbed(
        crops=kind.name,
        n=len(scores),
        eer=equal_error_rate(scores, kind.labels),
        ece=expected_calibration_error(reliability(scores, kind.labels)),
    )


def _functional(row: Undisturbed) -> bool:
    return row.eer <= MAX_EER


def _invariance(manifest: Card, change: tuple[str, str], kind: TestCrops, before: Scores, after: Scores) -> Invariance:
    opened, closed = manifest.thresholds.open, manifest.thresholds.closed
    changed = float(((before >= VERDICT) != (after >= VERDICT)).mean())
    reversed_ = float((((before >= opened) & (after <= closed)) | ((before <= closed) & (after >= opened))).mean())
    return Invariance(
        behaviour=change[0],
        change=change[1],
        crops=kind.name,
        n=len(after),
        changed=changed,
        reversed=reversed_,
        difference=float(np.abs(after - before).mean()),
        eer=equal_error_rate(after, kind.labels),
        passed=changed <= MAX_CHANGED and reversed_ <= MAX_REVERSED,
    )


def _direction(model: Model, name: str, film: Callable[[Eye], list[Pixels]], eyes: Sequence[Eye]) -> Direction:
    scores = _scores(model, [frame for eye in eyes for frame in film(eye)]).reshape(len(eyes), STEPS)
    falling = float((np.diff(scores, axis=1) <= TOLERANCE).mean())
    fall = float((scores[:, 0] - scores[:, -1]).mean())
    steps = -np.arange(STEPS)
    return Direction(
        behaviour=name,
        n=len(eyes),
        falling=falling,
        correlation=float(np.mean([spearmanr(steps, row).statistic if np.ptp(row) else 0 for row in scores])),
        fall=fall,
        passed=falling >= MIN_FALLING and fall >= MIN_FALL,
    )


def _table(head: str, rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _yes_no(passed: bool) -> Literal["yes", "**no**"]:
    return "yes" if passed else "**no**"
