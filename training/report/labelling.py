"""The report's part on labels: clusterings, consensus, pseudo-labels, people, and the accuracy of each."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from training.data.datasets import CLOSED, OPEN, Crop
from training.data.labels import BUDGET, Answer, Label
from training.evaluation.compare import ANSWERS
from training.labelling.label_errors import likely_wrong
from training.labelling.label_quality import Quality, label_quality
from training.labelling.pseudo_label import TRUSTED, human_labels, merge, soft_targets
from training.report.cells import count, percent, share
from training.report.content import (
    NONE,
    NOT_MEASURED,
    ONE_CLUSTER,
    UNKNOWN,
    Block,
    Figure,
    Gallery,
    Missing,
    Paragraph,
    Section,
    Table,
    Tile,
    gather,
)
from training.report.galleries import disagreements
from training.report.outputs import NotRunError, Runs
from training.report.plots import Dots, plot_dots

ALGORITHMS: Final = {
    "kmeans": "KMeans",
    "bisecting": "BisectingKMeans",
    "agglomerative": "Agglomerative",
    "dbscan": "DBSCAN",
}
FEATURES: Final = {"dlib": "dlib", "vggface": "VGG-Face", "facenet": "FaceNet (not in the original)"}
VARIANTS: Final = {
    "labels": "all good clusterings agree (the original's rule)",
    "majority": "most good clusterings agree",
    "views": "all agree, and kaggle_model confirms",
}
QUEUES: Final = {
    "pseudo_label": ("best_1000 (baseline)", "pseudo-label"),
    "committee": ("committee, the five that saw no such crop, averaged", "committee"),
    "final_best": ("final_best, of the five the one that did not see the crop", "committee"),
}
STAGES_ASKED: Final = {
    "label_1/answers.csv": "crops that best_1000 doubts (baseline)",
    "label_2/answers.csv": "crops that the committee doubts",
}
FIRST_BELIEFS: Final = "committee/beliefs.csv"
SECOND_BELIEFS: Final = "self_training/beliefs.csv"
FINAL_BELIEFS: Final = "final_best/beliefs.csv"


def clustering(runs: Runs) -> Section:
    """Table 1, the searches, and samples and maps of the best clusterings."""

    def tables() -> list[Block]:
        rows: list[dict[str, Any]] = runs.json("cluster/clusterings.json", "cluster")
        return [_table_1(rows), _goodness(rows)]

    def samples() -> list[Block]:
        found = runs.pngs("cluster/samples-*.png", "cluster")
        tiles = [Tile(png, name.removeprefix("samples-")) for name, png in found.items()]
        caption = "Random crops of each cluster, of the clustering that is shown for each feature set."
        return [Gallery("Figure 1. Samples by cluster", tiles, caption, wide=True)]

    def maps() -> list[Block]:
        caption = (
            "The crops in two dimensions, coloured by cluster: PCA keeps distances as far as a plane can, t-SNE keeps "
            "neighbours. Clusters were made in the features, not in these maps."
        )
        png = runs.png("cluster/maps.png", "cluster")
        return [Figure("cluster-maps", "Figure 2. Maps of the features by cluster", png, caption)]

    def searches() -> list[Block]:
        rows: list[dict[str, Any]] = runs.json("cluster/clusterings.json", "cluster")
        good = sorted((row for row in rows if row["good"]), key=lambda row: row["silhouette"])
        best = {row["feature"]: row["algorithm"] for row in good}
        shown = [f"{feature}-{algorithm}-history" for feature, algorithm in best.items()]
        plots = runs.pngs("cluster/plots/*.png", "cluster")
        caption = (
            "The best good clustering of these features: silhouette of each trial; -1 and below mark trials without a "
            "usable partition."
        )
        committed: list[Block] = [
            Figure(f"optuna-{name}", f"Optuna's search: {name.removesuffix('-history')}", plots[name], caption)
            for name in shown
            if name in plots
        ]
        others = [Tile(png, name) for name, png in plots.items() if name not in shown]
        return [
            *committed,
            Gallery(
                "Optuna's searches, all plots",
                others,
                "History, slices by parameter, and what mattered, of each feature set and algorithm.",
                wide=True,
            ),
        ]

    text = (
        "A face network turns each crop into a list of numbers (features); an algorithm then groups crops whose "
        "features are near each other. The silhouette, from -1 to 1, says how much nearer a crop is to its own group "
        "than to the next; it needs no labels, and it does not know whether the groups are open and closed eyes or "
        "bright and dark pictures. Optuna searches preprocessing and parameters for the highest silhouette, always "
        "measured in the same space per feature set: the features as the network gave them."
    )
    return Section("Clusterings", [Paragraph(text), *gather(tables, samples, maps, searches)])


def _table_1(rows: Sequence[Mapping[str, Any]]) -> Table:
    by_kind = {(row["feature"], row["algorithm"], row["tuned"]): row for row in rows}

    def silhouette(row: Mapping[str, Any]) -> str:
        if "silhouette" not in row:
            return NOT_MEASURED
        return ONE_CLUSTER if row["silhouette"] is None else f"{row['silhouette']:.3f}"

    lines = [
        [FEATURES.get(feature, feature), name, silhouette(default), silhouette(tuned), UNKNOWN]
        for feature in dict.fromkeys(row["feature"] for row in rows)
        for algorithm, name in ALGORITHMS.items()
        if (default := by_kind.get((feature, algorithm, False))) and (tuned := by_kind.get((feature, algorithm, True)))
    ]
    unmeasured = sorted({FEATURES.get(row["feature"], row["feature"]) for row in rows if "silhouette" not in row})
    note = "".join(
        f"{name}: weights not available, not measured; `python -m training features` says which file it needs. "
        for name in unmeasured
    )
    return Table(
        "Table 1. Silhouette by features and algorithm",
        ("Features", "Algorithm", "Default", "Tuned", "The original's"),
        lines,
        f"{note}Default: two clusters; for DBSCAN, as many as its elbow rule gives.",
    )


def _goodness(rows: Sequence[Mapping[str, Any]]) -> Table:
    tuned = [row for row in rows if row["tuned"] and "silhouette" in row]
    return Table(
        "The tuned clusterings",
        ("Clustering", "Clusters", "Noise", "Parameters", "Good", "Why not"),
        [
            [
                f"{row['feature']} {ALGORITHMS[row['algorithm']]}",
                " + ".join(map(str, row["sizes"])) if len(row["sizes"]) <= 6 else f"{len(row['sizes'])} clusters",
                f"{row['noise']:.0%}",
                ", ".join(f"{name} {_short(value)}" for name, value in row["params"].items()),
                "yes" if row["good"] else "no",
                row["why_not"] or NONE,
            ]
            for row in tuned
        ],
        "Good: no cluster is tiny, the clusters are on both sides by kaggle_model's mean P(open), they follow P(open) "
        "rather than how the crops are lit, and the silhouette is not far below the best such one on the same "
        "features. kaggle_model was trained on MRL alone, so no label of these crops is used.",
    )


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "all" if value is None else str(value)


def consensus(runs: Runs, pool: Sequence[Crop]) -> Section:
    """What is kept, how compact it is, Figures 3 and 5."""

    def table() -> list[Block]:
        metrics: dict[str, Any] = runs.json("consensus/metrics.json", "consensus")
        features = list(metrics["labels"]["silhouette"])
        good = [(name, metrics["clusterings"][name]) for name in metrics["good"]]
        kinds = [*good, *((what, metrics[name]) for name, what in VARIANTS.items())]
        original = ["The original's", "about 1,000 (a quarter)", *[UNKNOWN] * (2 + len(features))]
        return [
            Table(
                "What each rule keeps",
                ("Rule", "Kept", "Closed", "Open", *(f"Silhouette, {name}" for name in features)),
                [
                    *(
                        [
                            name,
                            share(found["kept"], metrics["crops"]),
                            count(found["closed"]),
                            count(found["open"]),
                            *(
                                "none" if found["silhouette"][f] is None else f"{found['silhouette'][f]:.3f}"
                                for f in features
                            ),
                        ]
                        for name, found in kinds
                    ),
                    original,
                ],
                f"Of the {metrics['crops']:,} crops available for training; the original had 4,000. First the "
                f"{len(good)} good clusterings alone, taken as two sides (before), then what the rules make of them "
                "(after). A good clustering that the others overrule loses crops, which is why compactness rises.",
            )
        ]

    def maps() -> list[Block]:
        caption = "The maps of Figure 2, coloured by what the consensus says: crops without agreement are undecided."
        plots = runs.pngs("consensus/*-maps.png", "consensus")
        agreed = runs.png("consensus/labels-maps.png", "consensus")
        others = [Tile(png, VARIANTS.get(name.removesuffix("-maps"), name)) for name, png in plots.items()]
        return [
            Figure("consensus-maps", "Figure 3. Maps of the features by consensus", agreed, caption),
            Gallery("Figure 3, by the other rules", others, "As Figure 3.", wide=True),
        ]

    def figure_5() -> list[Block]:
        labels = runs.labels("consensus/labels.csv", "consensus")
        beliefs = runs.labels("kaggle_model/scores.csv", "score")
        return disagreements(pool, labels, {item.file: item.p_open for item in beliefs if item.p_open is not None})

    text = (
        "A crop keeps a label where every good clustering puts it on the same side. Two alternatives are shown "
        "beside the original's rule: the majority of the good clusterings, and only those agreed crops on which "
        "kaggle_model, which shares no training data with the clusterings, is sure of the same."
    )
    return Section("Consensus", [Paragraph(text), *gather(table, maps, figure_5)])


def pseudo_labels(runs: Runs) -> Section:
    """How many crops the networks label, and how many are left to people."""
    rows, missing = [], []
    for folder, (title, maker) in QUEUES.items():
        try:
            found: dict[str, int] = runs.json(f"{folder}/counts.json", maker)
        except NotRunError as error:
            missing.append(Missing(error.message))
            continue
        asked = found["trusted"] + found["in_doubt"]
        rows.append(
            [
                title,
                count(asked),
                share(found["trusted"], asked),
                share(found["in_doubt"], asked),
                count(found["queued"]),
            ]
        )
    original = ["The original's best_1000", "about 3,000", UNKNOWN, "about 200", "about 200"]
    text = (
        f"A score within {TRUSTED:g} of 0 or 1 is trusted; the others are in doubt, and the most doubtful crops are "
        "queued for a person. In the improved method no network scores a crop that it was trained on: the committee's "
        "five learnt from labelled people alone, and those of final_best score each other's crops (cross-fitting)."
    )
    header = ("Network", "Crops scored", "Trusted", "In doubt", "Queued for a person")
    return Section("Pseudo-labels", [Paragraph(text), Table("Pseudo-labels", header, [*rows, original]), *missing])


def people(runs: Runs) -> Section:
    """How many crops people were asked about, and for which stage."""
    rows, missing = [], []
    for name in ANSWERS:
        try:
            answers = runs.answers(name)
        except NotRunError as error:
            missing.append(Missing(error.message))
            continue
        sides = Counter(answer.label for answer in answers.values())
        rows.append(
            [f"`{name}`", STAGES_ASKED[name], *map(count, (len(answers), sides[CLOSED], sides[OPEN], sides[None]))]
        )
    rows.append(["all, each crop once", f"of {BUDGET} at most", count(len(all_answers(runs))), *[NONE] * 3])
    rows.append(["the original", "final_best", "about 200", *[UNKNOWN] * 3])
    text = (
        "People labelled only crops that the networks doubt. The answers were collected from annotators beforehand "
        "and are looked up as the queues ask for them, in place of a person at the labelling page."
    )
    header = ("Answers", "Asked about", "Crops", "Closed", "Open", "Could not tell")
    return Section("People", [Paragraph(text), Table("Crops that people labelled", header, rows), *missing])


@dataclass(frozen=True, slots=True)
class StageQuality:
    """The accuracy of a stage's labels, and the share of the crops that has one."""

    stage: str
    coverage: float
    quality: Mapping[str, Quality]


def stage_qualities(
    runs: Runs, pool: Sequence[Crop], people: Mapping[str, Answer]
) -> tuple[list[StageQuality], list[Missing]]:
    """Evaluate the labels of every stage that was run, on the crops available for training.

    Where the labels of a stage include people's answers, the crops that people were asked about are left out: people
    would be compared with themselves.
    """
    asked = all_answers(runs)
    found, missing = [], []
    for stage, make, holds_answers in _stages(runs, pool):
        try:
            labels = [item for item in make() if item.label is not None]
        except NotRunError as error:
            if (line := Missing(error.message)) not in missing:
                missing.append(line)
            continue
        judged = [item for item in labels if not (holds_answers and item.file in asked)]
        found.append(StageQuality(stage, len(labels) / len(pool), label_quality(judged, people)))
    return found, missing


def _stages(runs: Runs, pool: Sequence[Crop]) -> list[tuple[str, Callable[[], list[Label]], bool]]:
    """Name of each stage, a function for its labels, and whether they include people's answers."""

    def baseline() -> list[Label]:
        consensus = runs.labels("consensus/labels.csv", "consensus")
        pseudo = runs.labels("pseudo_label/labels.csv", "pseudo-label")
        return merge(consensus, pseudo, human_labels(runs.answers(ANSWERS[0]).values()))

    def targets(believed: str) -> list[Label]:
        targeted = soft_targets(pool, beliefs(runs, believed), runs.answers(ANSWERS[1]))
        return [Label(crop.name, crop.label, crop.target, "pseudo") for crop in targeted]

    def verdicts(name: str, maker: str) -> list[tuple[str, Callable[[], list[Label]], bool]]:
        return [
            ("trusted", lambda: runs.labels(name, maker), False),
            ("all, at 0.5", lambda: [_sided(item) for item in runs.labels(name, maker)], False),
        ]

    believed = [
        ("kaggle_model, before any crop of this kind", "kaggle_model/scores.csv", "score"),
        ("committee, before any crop of this kind", FIRST_BELIEFS, "committee"),
        ("self_training, cross-fitted", SECOND_BELIEFS, "committee"),
        ("final_best, cross-fitted", FINAL_BELIEFS, "committee"),
    ]
    kaggle, *rounds = [
        [(f"{stage}: {part}", make, told) for part, make, told in verdicts(name, maker)]
        for stage, name, maker in believed
    ]
    return [
        *kaggle,
        ("consensus: all good clusterings agree", lambda: runs.labels("consensus/labels.csv", "consensus"), False),
        ("consensus: most agree", lambda: runs.labels("consensus/majority.csv", "consensus"), False),
        ("consensus: all agree, kaggle_model confirms", lambda: runs.labels("consensus/views.csv", "consensus"), False),
        (
            "best_1000's trusted labels of the rest",
            lambda: runs.labels("pseudo_label/labels.csv", "pseudo-label"),
            False,
        ),
        ("all labels of final_baseline", baseline, True),
        *(stage for pair in rounds for stage in pair),
        ("targets of self_training", partial(targets, FIRST_BELIEFS), True),
        ("targets of final_best", partial(targets, SECOND_BELIEFS), True),
    ]


def beliefs(runs: Runs, name: str) -> dict[str, float]:
    """P(open) by file, as a committee believes."""
    return {item.file: item.p_open for item in runs.labels(name, "committee") if item.p_open is not None}


def _sided(item: Label) -> Label:
    """The verdict with the side of 0.5 for a label."""
    return item if item.p_open is None else dataclasses.replace(item, label=int(item.p_open >= 0.5))


def answered(runs: Runs, name: str) -> dict[str, Answer]:
    """People's answers for a stage; empty where they have not been asked."""
    try:
        return runs.answers(name)
    except NotRunError:
        return {}


def all_answers(runs: Runs) -> dict[str, Answer]:
    """People's answers so far, by file; of a crop that two stages asked about, the later one's."""
    return {file: answer for name in ANSWERS for file, answer in answered(runs, name).items()}


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Labels that confident learning flags as wrong, and the accuracy of the labels with and without them."""

    labels: str
    n: int
    flagged: int
    before: Quality
    after: Quality


def suspicions(runs: Runs, people: Mapping[str, Answer]) -> list[Suspicion]:
    """Confident learning on the consensus and on people's answers, by cross-fitted beliefs; those that are there.

    Raises:
        NotRunError: there are no beliefs yet.
    """
    believed = beliefs(runs, FINAL_BELIEFS)
    sources: dict[str, Callable[[], list[Label]]] = {
        "consensus": lambda: runs.labels("consensus/labels.csv", "consensus"),
        "people's answers": lambda: human_labels(all_answers(runs).values()),
    }
    found = []
    for name, make in sources.items():
        labels = [item for item in make() if item.label is not None]
        flagged = likely_wrong(labels, believed)
        kept = [item for item in labels if item.file not in flagged]
        before, after = (label_quality(part, people)["unanimous"] for part in (labels, kept))
        found.append(Suspicion(name, len(labels), len(flagged), before, after))
    return found


def quality(stages: Sequence[StageQuality], missing: Sequence[Missing], found: Sequence[Suspicion] | None) -> Section:
    """The accuracy of the labels at each stage, and what confident learning would drop."""

    def table() -> list[Block]:
        if not stages:
            return []
        accuracies = {item.stage: found for item in stages if (found := item.quality["unanimous"].accuracy)}
        blocks: list[Block] = [
            Table(
                "Label quality by stage",
                ("Labels", "Coverage", "Accuracy where people are unanimous", "Crops", "Accuracy by majority", "Crops"),
                [
                    [
                        item.stage,
                        f"{item.coverage:.1%}",
                        percent(item.quality["unanimous"].accuracy),
                        count(item.quality["unanimous"].n),
                        percent(item.quality["all"].accuracy),
                        count(item.quality["all"].n),
                    ]
                    for item in stages
                ],
                "On the crops available for training, never on held-out ones; 95 % Wilson intervals. Coverage: the "
                "share of the crops that has a label. Some of people's own labels are wrong, above all of half-shut "
                "eyes, so the last few per cent cannot be distinguished from their errors. Stages whose labels hold "
                "people's answers are judged on the other crops.",
            )
        ]
        if accuracies:
            png = plot_dots([Dots("unanimous people", accuracies)], "accuracy")
            caption = (
                "The share of labels that unanimous people confirm, with 95 % intervals. Trusted labels are the easy "
                "crops; compare stages of like coverage."
            )
            blocks.append(Figure("label-quality", "Label quality by stage", png, caption))
        return blocks

    def errors() -> list[Block]:
        if found is None:
            raise NotRunError(f"confident learning: `{FINAL_BELIEFS}` or `consensus/labels.csv`", "committee")
        return [
            Table(
                "Confident learning (cleanlab)",
                ("Labels", "Crops", "Flagged as likely wrong", "Accuracy before", "Accuracy without them"),
                [
                    [
                        item.labels,
                        count(item.n),
                        share(item.flagged, item.n),
                        percent(item.before.accuracy),
                        percent(item.after.accuracy),
                    ]
                    for item in found
                ],
                "Flagged are labels that the cross-fitted beliefs of final_best contradict more than doubt explains. "
                "Right: where people are unanimous. For people's own answers that is their agreement with themselves, "
                "so only the number flagged says something.",
            )
        ]

    text = (
        "Labels from programs compared with people's answers about the same crops. Nothing was chosen by this "
        "comparison."
    )
    return Section("Label quality by stage", [Paragraph(text), *gather(table), *missing, *gather(errors)])
