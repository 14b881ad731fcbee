from __future__ import annotations

import io
import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.training.conftest import jpeg
from training.commands.report import report_command
from training.data.datasets import Crop, LabelledCrop
from training.data.folds import FOLDS
from training.data.labels import Answer, Label, agreed, write_answers, write_labels
from training.data.split import hold_out
from training.data.synthetic import labelled
from training.evaluation import compare
from training.evaluation.compare import ANSWERS, ATTEMPTS
from training.evaluation.intervals import Interval
from training.files import write_json
from training.labelling.pseudo_label import pseudo_labels, queue, write_queue
from training.models.strangers import Strangers
from training.report import judging
from training.report.content import Gallery, Missing, Report, Section, Table
from training.report.draw import draw
from training.report.labelling import stage_qualities, suspicions
from training.report.outputs import Runs
from training.report.plots import Dots, plot_dots
from training.report.render import anchor, html, markdown, write_markdown, write_page
from training.runs import record_time

HOSTILE = '<script>alert("1")</script>|`*.jpg'


def guesses(labels: Sequence[int], noise: float, seed: int) -> npt.NDArray[np.float64]:
    random = np.random.default_rng(seed)
    scores: npt.NDArray[np.float64] = 1 / (1 + np.exp(-random.normal(6 * (np.array(labels) - 0.5), noise)))
    return scores


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


def draw_pictures(runs: Path) -> None:
    """Stand-ins for what matplotlib draws; those that would show crops are red."""
    plots = ("maps", "plots/dlib-kmeans-history", "plots/dlib-kmeans-slice", "plots/dlib-dbscan-history")
    for name in (f"cluster/{plot}" for plot in plots):
        put(runs / f"{name}.png", "white")
    for name in ("labels", "majority", "views"):
        put(runs / "consensus" / f"{name}-maps.png", "white")
    put(runs / "cluster/samples-dlib.png", "red")
    for run in judging.CURVES:
        put(runs / run / "curves.png", "white")


def put(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(colour))


def clusterings() -> list[dict[str, object]]:
    """Rows as `cluster` writes them."""
    rows: list[dict[str, object]] = []
    for algorithm in ("kmeans", "bisecting", "agglomerative", "dbscan"):
        for tuned in (False, True):
            good = tuned and algorithm == "kmeans"
            name = f"{algorithm}-{'tuned' if tuned else 'default'}"
            rows.append(
                {
                    "name": f"dlib-{name}", "feature": "dlib", "algorithm": algorithm, "tuned": tuned,
                    "params": {"n_clusters": 2, "components": None, "core_share": 0.123456},
                    "silhouette": None if algorithm == "dbscan" else 0.25, "n_clusters": 2, "sizes": [30, 20],
                    "noise": 0.0, "admissible": True, "sides": [0, 1], "explains": {}, "follows": "p_open",
                    "good": good, "why_not": None if good else "follows brightness rather than P(open)",
                }
            )  # fmt: skip
            unmeasured = {"why_not": "weights not available, not measured", "good": False, "sides": None}
            rows.append(
                {"name": f"vggface-{name}", "feature": "vggface", "algorithm": algorithm, "tuned": tuned, **unmeasured}
            )
    return rows


def kept(labels: Sequence[Label], crops: int) -> dict[str, object]:
    sides = [item.label for item in labels]
    share = {"kept": len(labels), "share": len(labels) / crops}
    return {**share, "closed": sides.count(0), "open": sides.count(1), "silhouette": {"dlib": 0.3}}


def fake_runs(
    runs: Path,
    pool: Sequence[Crop],
    held_out: Sequence[LabelledCrop],
    people: dict[str, Answer],
    patch: pytest.MonkeyPatch,
) -> None:
    """What the stages leave behind, as they write it, with made-up scores in place of networks."""
    truth = [people[crop.name].label or 0 for crop in pool]
    files = [crop.name for crop in pool]
    draw_pictures(runs)
    write_json(runs / "cluster/clusterings.json", clusterings())
    sure = [Label(f, side, float(side), "consensus") for f, side in zip(files[:30], truth[:30], strict=True)]
    sure[0] = Label(files[0], 1 - truth[0], 1.0, "consensus")
    for name in ("labels", "majority", "views"):
        write_labels(runs / "consensus" / f"{name}.csv", sure)
    summary = kept(sure, len(pool))
    write_json(
        runs / "consensus/metrics.json",
        {"crops": len(pool), "good": ["dlib-kmeans-tuned"], "labels": summary, "majority": summary, "views": summary,
         "clusterings": {"dlib-kmeans-tuned": summary, "dlib-bisecting-tuned": summary}},
    )  # fmt: skip

    stages = ("kaggle_model/scores", "committee/beliefs", "self_training/beliefs", "final_best/beliefs")
    for seed, name in enumerate(stages):
        write_labels(runs / f"{name}.csv", pseudo_labels(pool, guesses(truth, 2.5 - seed / 2, seed)))
    for seed, folder in enumerate(("pseudo_label", "committee", "final_best")):
        verdicts = pseudo_labels(pool[30:], guesses(truth[30:], 2, seed))
        write_queue(verdicts, queue(verdicts, 5), runs / folder)
    for number, name in enumerate(ANSWERS):
        write_answers(runs / name, [people[file] for file in files[4 * number : 4 * number + 5]])

    own = {"train": 24, "test": 6, "sources": {"consensus": 30}, "eer": {"value": 0.02, "low": 0.0, "high": 0.05}}
    for run in ("best_1000", "final_baseline"):
        write_json(runs / run / "own_test.json", own | {"eer_before": own["eer"]})
    record_time(runs / "timings.json", "final_best", 1234.5)

    subjects = [LabelledCrop(f"s{i}", b"", i % 2, f"s{i % 6}") for i in range(60)]
    said = guesses([crop.label for crop in subjects], 2, 0)
    recipes: dict[str, dict[str, object]] = {
        "kaggle_model": {"sources": [{"name": "MRL Eye Dataset", "crops": 53_647}]},
        "committee": {"shares": {}},
        "self_training": {"shares": {}},
        "final_best": {"shares": {}},
        "final_best_lite": {"distillation_set": ""},
    }
    losses = {"train_loss": 0.3, "val_loss": 0.2, "train_eer": 0.04, "val_eer": 0.03}
    for attempt in ATTEMPTS:
        place, recipe = runs / attempt.name, recipes.get(attempt.name, {})
        write_json(place / "run.json", recipe)
        if "shares" in recipe or "distillation_set" in recipe:
            Strangers(said, said, np.zeros(len(said), dtype=np.int64)).write(place / "strangers.npz")
        for member in [place / f"fold_{fold}" for fold in range(FOLDS)] if "shares" in recipe else [place]:
            (member / "checkpoints").mkdir(parents=True, exist_ok=True)
            torch.save({"history": [{"epoch": i, **losses} for i in range(2)]}, member / "checkpoints/last.ckpt")
    for name in ("load_classifier", "load_student", "load_committee"):
        patch.setattr(compare, name, lambda path: len(path.name))
    patch.setattr(
        compare, "predict", lambda seed, crops: guesses([crop.label for crop in crops], 1 + seed % 3, len(crops))
    )
    tests = [
        compare.TestSet("held_out", "held-out crops", held_out),
        compare.TestSet("held_out_easy", "the easy part", agreed(held_out, people)),
        compare.TestSet("mrl", "MRL", subjects),
    ]
    compare.compare(tests, subjects, runs, runs / "compare")


class Data:
    """A data set in miniature: crops with people's answers, and a pipeline that ran on them."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        drawn = labelled(120, seed=0)
        crops = [Crop(f"{i:06}.jpg", jpeg(pixels)) for i, (pixels, _) in enumerate(drawn)]
        self.pool, held_out = hold_out(crops)
        held_out = [Crop(HOSTILE, held_out[0].data), *held_out[1:]]
        sides = {crop.data: label for crop, (_, label) in zip(crops, drawn, strict=True)}
        votes = {crop.name: sides[crop.data] for crop in [*self.pool, *held_out]}
        self.held_out = [crop.labelled(votes[crop.name]) for crop in held_out]
        self.held_out[0] = self.held_out[0].labelled(1 - votes[HOSTILE])
        self.people = {name: Answer(name, side, 2, 2 * side) for name, side in votes.items()}
        self.people[HOSTILE] = Answer(HOSTILE, 1 - votes[HOSTILE], 2, 2 * (1 - votes[HOSTILE]))
        self.runs = Runs(folder / "runs")
        fake_runs(self.runs.folder, self.pool, self.held_out, self.people, patch)
        self.report, self.results = draw(self.runs, self.pool, self.held_out, self.people)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    with pytest.MonkeyPatch.context() as patch:
        return Data(tmp_path_factory.mktemp("report"), patch)


@pytest.fixture(scope="module")
def text(data: Data, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "index.html"
    write_page(data.report, path)
    return path.read_text()


@pytest.fixture(scope="module")
def folder(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("markdown")
    write_markdown(data.report, folder / "README.md")
    write_json(folder / "results.json", data.results)
    return folder


def galleries(made: Report) -> list[Gallery]:
    return [block for section in made.sections for block in section.blocks if isinstance(block, Gallery)]


def tables(made: Report) -> dict[str, Table]:
    return {block.title: block for section in made.sections for block in section.blocks if isinstance(block, Table)}


def missing(made: Report) -> list[str]:
    return [block.text for section in made.sections for block in section.blocks if isinstance(block, Missing)]


class Page(HTMLParser):
    """The tags of a page, checked to be balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.ids |= {str(found["id"])} if "id" in found else set()
        self.links |= {str(found["href"])} if "href" in found else set()
        if tag == "img":
            self.images.append(found)
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class TestPage:
    def test_is_whole_and_needs_no_other_file(self, data: Data, text: str) -> None:
        page = Page(text)
        assert page.links == {f"#{anchor(section.title)}" for section in data.report.sections}
        assert page.links == {f"#{name}" for name in page.ids}
        assert page.images
        assert all(str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in page.images)
        assert "http://" not in text
        assert "https://" not in text

    def test_runs_no_script_from_a_file_name(self, text: str) -> None:
        assert "script" not in Page(text).tags
        assert "&lt;script&gt;" in text

    def test_shows_the_crops(self, data: Data) -> None:
        titles = [gallery.title for gallery in galleries(data.report)]
        for figure in ("Figure 1.", "Figure 5.", "Figure 6.", "Figure 7."):
            assert any(title.startswith(figure) for title in titles)


class TestMarkdown:
    def test_holds_no_crop(self, data: Data, folder: Path) -> None:
        crops = {tile.png for gallery in galleries(data.report) for tile in gallery.tiles} - {picture("white")}
        assert picture("red") in crops
        committed = {path.name: path.read_bytes() for path in folder.glob("*.png")}
        assert set(committed) == {f"{figure.name}.png" for figure in data.report.figures}
        assert not crops & set(committed.values())
        own = {"attempts", "label-quality", "reliability", "scores", "trade-off",
               "training-committee", "training-self_training", "training-final_best"}  # fmt: skip  # drawn from numbers
        assert own < {Path(name).stem for name in committed}
        assert all(png == picture("white") for name, png in committed.items() if Path(name).stem not in own)

    def test_links_every_figure_and_names_no_crop(self, data: Data, folder: Path) -> None:
        text = (folder / "README.md").read_text()
        assert all(f"]({path.name})" in text for path in folder.glob("*.png"))
        assert "<script" not in text
        assert "data:" not in text

    def test_tables_have_as_many_cells_in_every_row(self, data: Data) -> None:
        for table in tables(data.report).values():
            assert {len(row) for row in table.rows} == {len(table.header)}

    def test_says_nothing_of_the_machine(self, data: Data, folder: Path) -> None:
        for name in ("README.md", "results.json"):
            assert str(data.runs.folder) not in (folder / name).read_text()
            assert str(Path.home()) not in (folder / name).read_text()

    def test_is_the_same_when_drawn_again(self, data: Data, folder: Path, tmp_path: Path) -> None:
        made, results = draw(data.runs, data.pool, data.held_out, data.people)
        write_markdown(made, tmp_path / "README.md")
        write_json(tmp_path / "results.json", results)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
            path.name: path.read_bytes() for path in folder.iterdir()
        }


class TestContent:
    def test_everything_is_there_once_everything_has_been_run(self, data: Data) -> None:
        assert missing(data.report) == []
        assert all(data.results.values())

    def test_vgg_face_without_weights_has_no_number(self, data: Data) -> None:
        table = tables(data.report)["Table 1. Silhouette by features and algorithm"]
        assert {tuple(row[2:4]) for row in table.rows if row[0] == "VGG-Face"} == {("not measured", "not measured")}
        assert "weights not available, not measured" in table.note
        assert {row[4] for row in table.rows} == {"unknown"}

    def test_counts_what_people_were_asked(self, data: Data) -> None:
        rows = tables(data.report)["Crops that people labelled"].rows
        assert [row[2] for row in rows] == ["5", "5", "9", "about 200"]  # both stages asked about one of the crops
        assert tables(data.report)["The result"].rows[-1][1] == "9"
        assert list(data.results["crops_people_were_asked_about"].values()) == [5, 5]
        assert [item.n for item in suspicions(data.runs, data.people)] == [30, 9]

    def test_every_attempt_has_a_row_with_its_effect(self, data: Data) -> None:
        rows = {row[0]: row for row in tables(data.report)["Attempts"].rows}
        assert list(rows) == [attempt.name for attempt in ATTEMPTS]
        assert rows["kaggle_model"][-1] == "+0.0000"

    def test_people_are_not_judged_by_their_own_answers(self, data: Data) -> None:
        stages, _ = stage_qualities(data.runs, data.pool, data.people)
        by_stage = {item.stage: item for item in stages}
        for committee in ("self_training", "final_best"):
            assert by_stage[f"targets of {committee}"].quality["all"].n == len(data.pool) - 9
        assert by_stage["consensus: all good clusterings agree"].quality["all"].n == 30
        accuracy = by_stage["consensus: all good clusterings agree"].quality["all"].accuracy
        assert accuracy is not None
        assert accuracy.value == pytest.approx(29 / 30)

    def test_the_first_figure_is_that_of_all_held_out_crops(self, data: Data) -> None:
        (first, second, *_) = tables(data.report)["The result"].rows
        assert first[0] == "EER of final_best, all held-out crops"
        assert first[3] == "at most 0.028"
        assert second[0] == "EER of final_best, MRL's test subjects, never seen"
        assert second[3] == "at most 0.030"
        assert list(tables(data.report)["Attempts"].header[3:5]) == [
            "EER, all held-out crops",
            "EER, the easy part of the held-out crops",
        ]

    def test_galleries_hold_the_crops_on_which_nobody_agrees_too(self, data: Data) -> None:
        hard = {name: Answer(name, answer.label, 1, answer.votes_open) for name, answer in data.people.items()}
        made, _ = draw(data.runs, data.pool, data.held_out, hard)
        assert not any(figure.name == "label-quality" for figure in made.figures)  # nobody is unanimous
        for report in (made, data.report):
            (right,) = (gallery for gallery in galleries(report) if gallery.title.startswith("Figure 6."))
            assert f"of {len(data.held_out)} held-out crops" in right.caption
            assert all(", collection's labels: " in tile.caption for tile in right.tiles)

    def test_says_how_often_people_contradict_the_labels(self, data: Data) -> None:
        people = data.people | {HOSTILE: Answer(HOSTILE, 0, 2, 0 if data.held_out[0].label else 2)}
        text = str(judging.notes(data.held_out, people))
        assert f"agree on {len(data.held_out)} of these crops; they contradict 1 of the labels" in text

    def test_a_collection_of_ones_own_is_called_by_its_name(self, data: Data, tmp_path: Path) -> None:
        comparison = data.runs.json("compare/comparison.json", "compare")
        comparison["tests"].append({"name": "mine", "what": "", "crops": 9, "open": 4, "subjects": 3})
        write_json(tmp_path / "compare/comparison.json", comparison)
        section = judging.attempts(Runs(tmp_path))
        assert "EER, mine" in _only_table(section, "Attempts").header
        assert _only_table(section, "The tests").rows[-1][0] == "mine"

    def test_galleries_are_of_the_crops_that_were_scored(self, data: Data) -> None:
        section = judging.shown(data.runs, data.held_out[1:])
        assert isinstance(section.blocks[0], Missing)

    def test_an_attempt_that_was_not_run_says_so(self, data: Data, tmp_path: Path) -> None:
        comparison = data.runs.json("compare/comparison.json", "compare")
        for attempt in comparison["attempts"][1:]:
            attempt["eer"] = {}
        write_json(tmp_path / "compare/comparison.json", comparison)
        rows = {row[0]: row for row in _only_table(judging.attempts(Runs(tmp_path)), "Attempts").rows}
        assert rows["final_best"][3:] == ["not run", "not run", "not run", "–"]
        assert any("`final_best`: not run" in block.text for block in judging.summary(Runs(tmp_path)).blocks
                   if isinstance(block, Missing))  # fmt: skip


def _only_table(section: Section, title: str) -> Table:
    (table,) = (block for block in section.blocks if isinstance(block, Table) and block.title == title)
    return table


def test_nothing_has_been_run(data: Data, tmp_path: Path) -> None:
    made, results = draw(Runs(tmp_path / "runs"), data.pool, [], {})
    lines = missing(made)
    for maker in (
        "cluster",
        "consensus",
        "train",
        "fine-tune",
        "pseudo-label",
        "label",
        "committee",
        "compare",
    ):
        assert any(f"not run; `python -m training {maker}` makes it" in line for line in lines)
    assert "not recorded" in json.dumps([str(block) for section in made.sections for block in section.blocks])
    assert results["comparison"] is None
    write_page(made, tmp_path / "index.html")
    write_markdown(made, tmp_path / "README.md")
    Page((tmp_path / "index.html").read_text())


def test_the_command_draws_what_is_there(data: Data, tmp_path: Path) -> None:
    crops = tmp_path / "crops"
    crops.mkdir()
    for crop in data.pool:
        (crops / crop.name).write_bytes(crop.data)
    options = {"crops": crops, "human-labels": tmp_path / "no.csv",
               "held-out-labels": tmp_path / "no.csv", "runs": tmp_path / "runs",
               "output": tmp_path / "page", "reports": tmp_path / "reports"}  # fmt: skip
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    result = CliRunner().invoke(report_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert (tmp_path / "page/index.html").exists()
    assert {path.name for path in (tmp_path / "reports").iterdir()} == {"README.md", "results.json"}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Interval(0.005, 0.001, 0.009), "is met."),
        (Interval(0.020, 0.012, 0.035), "is met, though the interval reaches beyond it."),
        (Interval(0.035, 0.025, 0.045), "is missed, though the interval reaches it."),
        (Interval(0.040, 0.030, 0.050), "is missed."),
    ],
)
def test_a_target_is_met_or_missed(data: Data, tmp_path: Path, found: Interval, words: str) -> None:
    comparison = data.runs.json("compare/comparison.json", "compare")
    final = next(row for row in comparison["attempts"] if row["name"] == "final_best")
    final["eer"] = {"held_out": {"value": found.value, "low": found.low, "high": found.high}}
    write_json(tmp_path / "compare/comparison.json", comparison)
    text = str(judging.summary(Runs(tmp_path)).blocks[1])
    assert f"the target of 0.028 {words}" in text


def test_many_panels_of_dots_stand_in_several_rows() -> None:
    panel = Dots("a test", {"final_best": Interval(0.02, 0.01, 0.03)})
    one, four, seven = (Image.open(io.BytesIO(plot_dots([panel] * n, "EER"))) for n in (1, 4, 7))
    assert one.height == four.height
    assert seven.size == (four.width, 2 * four.height)


def test_text_is_escaped_but_for_code() -> None:
    assert html("a `b<c` & <d>") == "a <code>b&lt;c</code> &amp; &lt;d&gt;"
    assert markdown("a|b `c|d` <e> *f*") == r"a\|b `c|d` \<e\> \*f\*"


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["0.1234 (0.1 to 0.2)", "not run"], True),
        (["1,234", "about 200", "–"], True),
        (["+0.0100", "-0.0020"], True),
        (["not run", "–"], False),
        (["2 + 3", "yes"], False),
        (["a", "1"], False),
    ],
)
def test_numbers_stand_flush_right(cells: list[str], *, numeric: bool) -> None:
    assert Table("", ("",), [[cell] for cell in cells]).numeric(0) == numeric
