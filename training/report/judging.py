"""The report's part on networks: their error rates, against the targets and the original report's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from training.data.datasets import LabelledCrop, fingerprint
from training.data.labels import BUDGET, Answer, agreed
from training.evaluation.compare import ATTEMPTS
from training.evaluation.intervals import Interval
from training.evaluation.reliability import Bin, expected_calibration_error, reliability
from training.report.cells import count, interval, percent, to_interval
from training.report.content import (
    NONE,
    NOT_MEASURED,
    NOT_RECORDED,
    NOT_RUN,
    UNKNOWN,
    Block,
    Figure,
    Missing,
    Paragraph,
    Section,
    Table,
    gather,
)
from training.report.galleries import predictions
from training.report.labelling import all_answers
from training.report.outputs import NotRunError, Runs, Scored
from training.report.plots import Dots, plot_dots, plot_reliability, plot_scores, plot_trade_off, plot_training

FINAL: Final = "final_best"
TARGETS: Final = {"held_out": 0.028, "mrl": 0.030}
TESTS: Final = {  # the others are named after their collection
    "held_out": "all held-out crops",
    "held_out_easy": "the easy part of the held-out crops",
    "mrl": "MRL's test subjects, never seen",
}
IN_WORDS: Final = {
    "held_out": "all {:,} held-out crops",
    "mrl": "{:,} crops of MRL's test subjects, scored by networks that never saw them,",
}
OWN_TEST: Final = "0.02 to 0.03"  # the original's EERs on its own random test splits
OWN_KIND: Final = "0.07"  # the original's kaggle_model on crops of this kind
BASELINE: Final = {"best_1000": "best_1000", "final_baseline": "final_baseline"}
CURVES: Final = {"kaggle_model": "train", "best_1000": "fine-tune", "final_baseline": "fine-tune"}
COMMITTEES: Final = ("committee", "self_training", FINAL)

Comparison = Mapping[str, Any]


def summary(runs: Runs) -> Section:
    """The result, for readers who read no further."""

    def headline() -> list[Block]:
        comparison = runs.json("compare/comparison.json", "compare")
        final, kaggle = eers(comparison, FINAL), eers(comparison, "kaggle_model")
        if not final:
            raise NotRunError(f"`{FINAL}`", "committee")
        original = {
            "held_out": f"{UNKNOWN}; {OWN_TEST} on a random test set that models had labelled",
            "mrl": UNKNOWN,
        }
        rows = [
            [f"EER of final_best, {TESTS[test]}", *_with_target(final[test], TARGETS[test]), original[test]]
            for test in TARGETS
            if test in final
        ]
        if "held_out" in kaggle:
            rows.append(
                [f"EER of kaggle_model, {TESTS['held_out']}", *_parts(kaggle["held_out"]), NONE, NONE, OWN_KIND]
            )
        asked = len(all_answers(runs))
        met = "met" if asked <= BUDGET else "missed"
        rows.append(["Crops that people were asked about", count(asked), NONE, f"at most {BUDGET}", met, "about 200"])
        sentences = [_verdict(test, final[test], _size(comparison, test)) for test in TARGETS if test in final]
        return [
            Paragraph(f"{' '.join(sentences)} People were asked about {asked} crops."),
            Table(
                "The result",
                ("Measure", "Result", "95 % interval", "Target", "Verdict", "The original's"),
                rows,
                "MRL's test subjects are those that every network of the comparison can be judged by. "
                f"`models/{FINAL}/manifest.json` has the EER on all of MRL's people, each scored by the network of "
                f"{FINAL} that never saw them.",
            ),
        ]

    text = (
        "4,000 grey eye crops of 24×24 pixels came without labels. This pipeline turns them, the MRL Eye Dataset, "
        "other labelled collections and a few answers of people into `final_best`, five networks that together tell "
        "open eyes from closed ones. It follows an earlier report, called the original below. Only some of the "
        "original's numbers are known; they are shown beside ours, and the others are marked unknown. The equal error "
        "rate (EER) is the error rate at the threshold where closed eyes are taken for open as often as open eyes for "
        "closed: 0 is perfect, 0.5 is chance."
    )
    return Section("Summary", [Paragraph(text), *gather(headline)])


def _verdict(test: str, found: Interval, crops: int) -> str:
    target = TARGETS[test]
    sentence = (
        f"On {IN_WORDS[test].format(crops)} final_best has an EER of {interval(found)}; the target of {target:.3f} is "
    )
    if found.value > target:
        near = " though the interval reaches it" if found.low <= target else ""
        return f"{sentence}missed{',' if near else ''}{near}."
    return f"{sentence}met{', though the interval reaches beyond it' if found.high > target else ''}."


def _with_target(found: Interval, target: float) -> list[str]:
    return [*_parts(found), f"at most {target:.3f}", "met" if found.value <= target else "missed"]


def _parts(found: Interval) -> list[str]:
    return [f"{found.value:.4f}", f"{found.low:.4f} to {found.high:.4f}"]


def eers(comparison: Comparison, attempt: str) -> dict[str, Interval]:
    """An attempt's EER by test; nothing where it has not been run."""
    return {
        test: Interval(**kept)
        for row in comparison["attempts"]
        if row["name"] == attempt
        for test, kept in row["eer"].items()
    }


def _size(comparison: Comparison, test: str) -> int:
    return next(int(item["crops"]) for item in comparison["tests"] if item["name"] == test)


def baseline(runs: Runs) -> Section:
    """Table 2: the three networks of the report on its own kind of test, beside a test that no network labelled."""

    def table() -> list[Block]:
        comparison = runs.json("compare/comparison.json", "compare")

        def ours(attempt: str) -> list[str]:
            found = eers(comparison, attempt)
            return [interval(found[test]) if test in found else NOT_RUN for test in TARGETS]

        recipe = runs.json("kaggle_model/run.json", "train")
        train = count(sum(source["crops"] for source in recipe["sources"])) if "sources" in recipe else NOT_RECORDED
        rows = [["kaggle_model", train, NONE, NOT_MEASURED, NONE, OWN_TEST, *ours("kaggle_model")]]
        for run, name in BASELINE.items():
            own = _own_test(runs, run)
            rows.append(
                [name, *([NOT_RUN] * 4 if own is None else _own_cells(own)), OWN_TEST, *ours(run)],
            )
        return [
            Table(
                "Table 2. The networks of the original",
                (
                    "Network",
                    "Training crops",
                    "Own test crops",
                    "EER, own test",
                    "kaggle_model there",
                    "The original's, own test",
                    *(f"EER, {TESTS[test]}" for test in TARGETS),
                ),
                rows,
                "Own test: a random part of the labels that the network was trained on, as in the original. It "
                "measures how well the network repeats labels from programs, on the crops that these found easy. "
                "kaggle_model has none here: a random split of MRL's video frames puts the same picture on both sides. "
                f"The original found {OWN_KIND} for its kaggle_model on crops of this kind.",
            )
        ]

    def not_run() -> list[Block]:
        return [
            Missing(f"`{run}`: not run; `python -m training fine-tune` makes it")
            for run in BASELINE
            if _own_test(runs, run) is None
        ]

    text = (
        "The original's method: a network trained on MRL, fine-tuned on the agreed crops, then fine-tuned on "
        "everything that networks and people labelled. The columns on the right are measured against the labels of "
        "the collections, which no stage gave, on crops that no stage was trained on. The original did not do this."
    )
    return Section("The baseline", [Paragraph(text), *gather(table, not_run)])


def _own_test(runs: Runs, run: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = runs.json(f"{run}/own_test.json", "fine-tune")
    except NotRunError:
        return None
    return found


def _own_cells(own: Mapping[str, Any]) -> list[str]:
    sizes = [count(own["train"]), count(own["test"])]
    return [*sizes, *(interval(to_interval(own[kind])) for kind in ("eer", "eer_before"))]


def attempts(runs: Runs) -> Section:
    """Every attempt with its effect, as a table and as a plot."""

    def table() -> list[Block]:
        comparison = runs.json("compare/comparison.json", "compare")
        names = [attempt["name"] for attempt in comparison["attempts"]]
        tests = [item["name"] for item in comparison["tests"]]
        found = {name: eers(comparison, name) for name in names}
        rows = [
            [
                attempt["name"],
                attempt["what"],
                count(attempt["human_labels"]),
                *(interval(eer[test]) if test in eer else NOT_RUN for test in tests),
                _effect(eer.get("held_out"), found["kaggle_model"].get("held_out")),
            ]
            for attempt, eer in zip(comparison["attempts"], found.values(), strict=True)
        ]
        header = (
            "Attempt",
            "What",
            "People's labels",
            *(f"EER, {_title(test)}" for test in tests),
            "Effect",
        )
        blocks: list[Block] = [
            Table(
                "Attempts",
                header,
                rows,
                "In brackets the 95 % bootstrap interval, over subjects where they are known. Effect: the change of "
                "the EER on all held-out crops against kaggle_model. Where intervals overlap widely, a difference may "
                "be chance.",
            ),
            Table(
                "The tests",
                ("Test", "What", "Crops", "Open", "Subjects"),
                [
                    [
                        _title(test["name"]),
                        test["what"],
                        count(test["crops"]),
                        count(test["open"]),
                        count(test["subjects"]) if test["subjects"] else NOT_RECORDED,
                    ]
                    for test in comparison["tests"]
                ],
            ),
        ]
        run = [name for name in names if found[name]]
        panels = [
            Dots(_title(test), {name: found[name][test] for name in run if test in found[name]}, TARGETS.get(test))
            for test in tests
        ]
        if run:
            caption = "Each attempt's EER with its 95 % interval; further left is better."
            blocks.append(Figure("attempts", "Attempts", plot_dots(panels, "equal error rate"), caption))
        return blocks

    text = (
        "Every network of the pipeline, evaluated on the same crops. None scores a crop that it was trained on: people "
        "from whom a committee or a student learnt are scored by that one of its networks which never saw them. The "
        "easy part of the held-out crops, on which people agree, leaves out half-shut eyes and flatters every network. "
        "Nothing was chosen by this comparison; it is made once, at the end."
    )
    return Section("All attempts", [Paragraph(text), *gather(table)])


def _title(test: str) -> str:
    return TESTS.get(test, test)


def _effect(found: Interval | None, base: Interval | None) -> str:
    return NONE if found is None or base is None else f"{found.value - base.value:+.4f}"


def shown(runs: Runs, held_out: Sequence[LabelledCrop]) -> Section:
    """Figures 6 and 7.

    Args:
        runs: the folder of the runs.
        held_out: the crops that ``compare`` scored, labelled, in its order.
    """

    def figures() -> list[Block]:
        scored = runs.scored(FINAL, "held_out")
        if scored.fingerprint != fingerprint(held_out):
            raise NotRunError(f"scores of `{FINAL}` on these held-out crops", "compare")
        return predictions(held_out, scored.scores)

    return Section("Right and wrong predictions", gather(figures))


@dataclass(frozen=True, slots=True)
class Calibration:
    """The reliability of final_best's scores on a test."""

    error: float
    bins: list[Bin]


def calibrations(runs: Runs) -> dict[str, Calibration]:
    """The reliability of final_best's scores on the tests that it has been compared on."""
    found = {}
    for test, scored in _scored(runs, FINAL).items():
        bins = reliability(scored.scores, scored.labels)
        found[test] = Calibration(expected_calibration_error(bins), bins)
    return found


def _scored(runs: Runs, attempt: str) -> dict[str, Scored]:
    result = {}
    for test in TARGETS:
        try:
            result[test] = runs.scored(attempt, test)
        except NotRunError:
            continue
    return result


def calibration(runs: Runs, found: Mapping[str, Calibration]) -> Section:
    """Reliability, trade-off and scores."""

    def reliabilities() -> list[Block]:
        if not found:
            raise NotRunError(f"scores of `{FINAL}`", "compare")
        tables = [
            Table(
                f"Reliability, {TESTS[test]}",
                ("Bin", "Crops", "Mean score", "Share open, 95 % interval"),
                [
                    [str(number), count(item.n), f"{item.score:.4f}", percent(item.open)]
                    for number, item in enumerate(result.bins, 1)
                ],
                f"Expected calibration error {result.error:.4f}.",
            )
            for test, result in found.items()
        ]
        png = plot_reliability({TESTS[test]: result.bins for test, result in found.items()})
        caption = (
            "Share of open eyes, with Wilson's 95 % interval, against the mean score of equally large bins. On the "
            "dashed line a score can be read as a probability. Held-out crops are scored by the five networks "
            "together, people by the one that never saw them."
        )
        scores = plot_scores({TESTS[test]: scored for test, scored in _scored(runs, FINAL).items()})
        return [
            Figure("reliability", "Reliability of final_best", png, caption),
            *tables,
            Figure(
                "scores",
                "Scores of final_best",
                scores,
                "The distribution of final_best's scores; note the logarithmic scale.",
            ),
        ]

    def trade_off() -> list[Block]:
        by_attempt = {attempt.name: _scored(runs, attempt.name) for attempt in ATTEMPTS}
        tests = {
            TESTS[test]: {name: scored[test] for name, scored in by_attempt.items() if test in scored}
            for test in TARGETS
        }
        tests = {title: scored for title, scored in tests.items() if scored}
        if not tests:
            raise NotRunError("scores", "compare")
        caption = (
            "Both kinds of error at every threshold, on logarithmic axes; nearer to the lower left is better. The EER "
            "is where a curve crosses the dashed line."
        )
        return [Figure("trade-off", "Trade-off of the two errors (DET)", plot_trade_off(tests), caption)]

    text = "Whether nine in ten eyes with a score of 0.9 are open, and the errors at each threshold."
    return Section("Calibration and thresholds", [Paragraph(text), *gather(reliabilities, trade_off)])


def training(runs: Runs) -> Section:
    """Training curves and the time each stage took; of a committee, the curves of its first network."""

    def curves(run: str) -> Callable[[], list[Block]]:
        caption = "Loss and EER by epoch, on training and validation crops."
        return lambda: [
            Figure(f"training-{run}", f"Training of {run}", runs.png(f"{run}/curves.png", CURVES[run]), caption)
        ]

    def first_of(run: str) -> Callable[[], list[Block]]:
        caption = (
            "Loss and EER by epoch of the first of its five networks, on training crops and on crops of people that it "
            "never sees. Nothing is chosen by these: the last epoch is kept."
        )
        return lambda: [
            Figure(
                f"training-{run}",
                f"Training of {run}, first network",
                plot_training(runs.history(f"{run}/fold_0", "committee")),
                caption,
            )
        ]

    def times() -> list[Block]:
        path = "timings.json"
        if not (runs.folder / path).exists():
            return [Paragraph("Times per stage: not recorded; `dvc repro` records them.")]
        seconds: dict[str, float] = runs.json(path, "--help")
        rows = [[stage, f"{spent / 60:,.1f}"] for stage, spent in sorted(seconds.items())]
        note = (
            "Wall time of each stage when it last ran, on a machine that was also doing other work. Of a stage that "
            "was interrupted, only the time since it went on."
        )
        return [Table("Time per stage", ("Stage", "Minutes"), rows, note)]

    return Section("Training", gather(*map(curves, CURVES), *map(first_of, COMMITTEES), times))


def notes(held_out: Sequence[LabelledCrop], people: Mapping[str, Answer]) -> Section:
    """How to read the numbers, what the report's method got wrong, and what may be done with the data.

    Args:
        held_out: the held-out crops, as their collection labels them.
        people: people's answers, by file.
    """
    fixed = [
        [
            "Random test splits",
            "Frames of one video on both sides flatter every network",
            "People are dealt into five folds, and each is scored by a network that never saw them; a quarter of the "
            "unlabelled crops, chosen by a hash, is held out from every stage, and near-duplicates of these leave the "
            "pool",
        ],
        [
            "Test labels by the model under test",
            "A network that repeats its own errors looks perfect",
            "All held-out crops are judged by their collection's labels, hard crops included; their easy part, named "
            "as such, by people who agree",
        ],
        [
            "No intervals",
            "Chance looks like progress",
            "95 % bootstrap intervals of every EER, over subjects where they are known; Wilson's for shares",
        ],
        [
            "Silhouette alone",
            "The best silhouette may be bright against dark, or a handful of odd crops",
            "Clusterings must separate what kaggle_model calls open and closed to be good",
        ],
    ]
    texts = [
        "Held-out quarter: a hash of its content decides about a crop, so it stays held out whatever is added. What "
        "nearly equals one, such as a re-encoded copy, is in neither part. The labels of held-out crops are used only "
        f"to judge networks. {_contradictions(held_out, people)}",
        "Cross-validation: `committee`, `final_best` and `final_best_lite` learn from all of MRL's people and from "
        "other collections. What they say of a person comes from one network, trained on the other four fifths, not "
        "from all together. MRL's test subjects are the people that kaggle_model, trained once, never saw either.",
        "Not quite clean: what self_training and final_best are trained towards, where labels are missing or doubtful, "
        "comes from networks of the committee before, some of which had seen the people that these are judged by. No "
        "label of these people reaches the network that scores them, but a little of what was learnt from them may. "
        "`committee` has no such path, which is why all are compared.",
        "Intervals show how far a value would move with other crops, or other subjects, of the same kind. They say "
        "nothing about other cameras or populations.",
        "The unlabelled crops may show a person more than once; identities are unknown, so held-out crops may show "
        "people who are also in the training crops.",
        "Licences: the code is under Apache-2.0. The data sets are research data without a licence to redistribute, "
        "some of them non-commercial; no picture that shows one of their crops is part of the repository. The "
        "pretrained weights are FaceNet's, trained on CASIA-WebFace, face photographs collected for research. The "
        "features come from dlib's face network, FaceNet and, where its weights are at hand, VGG-Face, whose terms are "
        "for research. Check all of them before commercial use.",
    ]
    header = ("The original's method", "Why it misleads", "Here")
    return Section(
        "Notes on data and method",
        [Table("What was changed", header, fixed), *(Paragraph(text) for text in texts)],
    )


def _contradictions(held_out: Sequence[LabelledCrop], people: Mapping[str, Answer]) -> str:
    easy = agreed(held_out, people)
    label = {crop.name: crop.label for crop in held_out}
    contradicted = sum(crop.label != label[crop.name] for crop in easy)
    return f"Two or more people agree on {len(easy):,} of these crops; they contradict {contradicted:,} of the labels."
