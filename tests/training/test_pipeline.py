"""The pipeline of dvc.yaml in miniature, from unlabelled crops to bundles and cards, stage by stage as DVC runs it."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import networkx
import pytest
import yaml
from click.testing import CliRunner
from dvc.repo import Repo

import eyestate
from eyestate.bundle import load_bundle
from tests.training.conftest import far_crops, jpeg, write_mrl, write_people
from tests.training.tiny import MEMBER_SIDE, SIDE, TinyNetwork, write_backbone
from training.__main__ import main
from training.data.datasets import MRL, UNLABELLED, Crop, LabelledCrop, data_dir, load_crops, load_mrl, load_people
from training.data.duplicates import near_duplicates
from training.data.folds import FOLDS
from training.data.labels import WORDS, Answer, read_answers, write_answers, write_csv
from training.data.split import SPLIT_FOLDS, hold_out, read_pool
from training.data.synthetic import labelled
from training.evaluation.judging import EASY, HELD_OUT, STRANGERS
from training.runs import read_recipe

ROOT = Path(__file__).parents[2]
REAL = data_dir()  # a test's project has data of its own
COLLECTIONS = ("colour", "fer2013", "utkface", "ganblink")
MINIATURE = {
    "data": "../data",
    "backbone": "../weights.pt",
    "device": "cpu",
    "label": "--answers ../data/human-labels.csv",
    "cluster": {"trials": 4, "seed": 0},
    "kaggle_model": {"input_side": SIDE, "epochs": 1, "crops_per_epoch": 2560, "average_decay": 0.8},
    "baseline": {
        "best_1000": {"epochs": 1, "crops_per_epoch": 64},
        "final": {"epochs": 1, "crops_per_epoch": 64},
        "learning_rate": 1e-4,
        "average_decay": 0.5,
        "budget": 10,
    },
    "committee": {
        "input_side": MEMBER_SIDE,
        "epochs": 1,
        "crops_per_epoch": 64,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "average_decay": 0.5,
        "budget": 10,
        "shares": {"mrl": 0.4, "unlabelled": 0.5, **dict.fromkeys(COLLECTIONS, 0.1)},
    },
    "ablation": {"seeds": 1, "draws": 64},
    "self_training": {"epochs": 1, "learning_rate": 1e-4},
    "final_best": {"version": "0.0.1", "epochs": 1, "learning_rate": 1e-4, "seed": 5, "max_wrong": 0.01},
    "lite": {
        "version": "0.0.1",
        "max_wrong": 0.01,
        "views": 1024,
        "search": {"views": 512, "trials": 1},
        "epochs": 1,
        "fold_epochs": 1,
        "batch_size": 64,
        "learning_rate": 9e-3,
        "average_decay": 0.5,
    },
    "cascade": {"max_wrong": 0.01},
}


def generated_data(data: Path) -> None:
    """Drawn eyes in the layout of the data sets, and of unlabelled ones what two people and their collection say."""
    write_mrl(data / "mrl-eyes.zip", 2 * SPLIT_FOLDS)  # two subjects to validate by
    write_people(data / "colour-eyes.zip", COLLECTIONS[:1], FOLDS + 1)
    write_people(data / "wide-eyes.zip", [f"wide/{name}" for name in COLLECTIONS[1:]], FOLDS + 1)
    labels = {}
    with zipfile.ZipFile(data / "eyes-dataset.zip", "w") as archive:
        for number, (crop, label) in enumerate(far_crops(80, seed=1000)):
            archive.writestr(f"EyesDataset/{number:06}.jpg", crop)
            labels[f"{number:06}.jpg"] = label
    write_answers(data / "human-labels.csv", [Answer(name, label, 2, 2 * label) for name, label in labels.items()])
    held_out = hold_out(load_crops(data / "eyes-dataset.zip").crops)[1]
    write_csv(
        data / "held-out-labels.csv", ("file", "label"), [(crop.name, WORDS[labels[crop.name]]) for crop in held_out]
    )


def real_data(data: Path) -> None:
    """A few crops of each subject and state of MRL, of some people of each other collection, and unlabelled ones."""
    write_folder(data / "mrl-eyes.zip", few_of_each(load_mrl(REAL / "mrl-eyes.zip").crops, 8))
    for name in ("colour-eyes.zip", "wide-eyes.zip"):
        crops = load_people(REAL / name).crops
        write_folder(data / name, few_of_each(crops[:: max(1, len(crops) // 400)], 2))
    with zipfile.ZipFile(data / "eyes-dataset.zip", "w") as archive:
        for crop in load_crops(REAL / "eyes-dataset.zip").crops[:320]:
            archive.writestr(crop.name, crop.data)
    for name in ("human-labels.csv", "held-out-labels.csv"):
        shutil.copy(REAL / name, data)


def few_of_each(crops: Iterable[LabelledCrop], n: int) -> Iterator[LabelledCrop]:
    """The first ``n`` crops of each subject and state."""
    taken: Counter[tuple[str | None, int]] = Counter()
    for crop in crops:
        taken[crop.subject, crop.label] += 1
        if taken[crop.subject, crop.label] <= n:
            yield crop


def write_folder(folder: Path, crops: Iterable[Crop]) -> None:
    for crop in crops:
        path = folder / crop.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(crop.data)


def commands(project: Path, target: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Stage and arguments of each command of the project's dvc.yaml, in an order in which they can run.

    Args:
        project: the folder of the project.
        target: the stage to end with, after all that it depends on; all stages where it is None.
    """
    with warnings.catch_warnings(), Repo(project) as repo:
        warnings.simplefilter("ignore", DeprecationWarning)  # between DVC and pygtrie
        graph = repo.index.graph
        last = next((stage for stage in graph if stage.addressing == target), None)
        for stage in networkx.dfs_postorder_nodes(graph, last):
            for command in [stage.cmd] if isinstance(stage.cmd, str) else stage.cmd:
                program, *arguments = shlex.split(command)
                assert [program, *arguments[:2]] == ["python", "-m", "training"]
                yield stage.addressing, arguments[2:]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with the repository's dvc.yaml, as the current folder; behavioural tests take few crops."""
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "dvc.yaml", project)
    Repo.init(project, no_scm=True)
    monkeypatch.chdir(project)
    monkeypatch.setenv("EYESTATE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("EYESTATE_MODELS", str(project / "models"))
    monkeypatch.setattr("training.commands.evaluate.DRAWN", 4)
    monkeypatch.setattr("training.commands.evaluate.SAMPLED", 24)
    return project


def outputs(project: Path) -> dict[str, list[Path]]:
    """What each stage makes."""
    with warnings.catch_warnings(), Repo(project) as repo:
        warnings.simplefilter("ignore", DeprecationWarning)  # between DVC and pygtrie
        return {stage.addressing: [Path(out.fs_path) for out in stage.outs] for stage in repo.index.stages}


def digest(path: Path) -> dict[str, str]:
    """The hash of each file of a folder, or of a file."""
    files = path.rglob("*") if path.is_dir() else [path]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


def run_through(project: Path, backbone: Path, target: str | None = None) -> None:
    """Run the stages. None changes what another has made, or a second run would find it changed and start over."""
    (project / "params.yaml").write_text(json.dumps({**MINIATURE, "backbone": str(backbone)}))
    owned, made = outputs(project), dict[Path, dict[str, str]]()
    for stage, arguments in commands(project, target):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f"{stage}: {result.exception!r} {result.output}"
        made |= {path: digest(path) for path in owned[stage]}
    assert {path: digest(path) for path in made} == made


def check_final_best(project: Path, *queues: str) -> None:
    data = project.parent / "data"
    pool, crops = read_pool(data / "eyes-dataset.zip"), load_crops(data / "eyes-dataset.zip").crops
    groups = dict(zip((crop.name for crop in crops), near_duplicates(crops).tolist(), strict=True))
    held_out = hold_out(crops)[1]
    assert not {groups[crop.name] for crop in pool} & {groups[crop.name] for crop in held_out}
    for queue in queues:
        asked = read_answers(project / "runs" / queue / "answers.csv")
        assert 0 < len(asked) <= 10
        assert set(asked) <= {crop.name for crop in pool}
    check_model("final_best")
    manifest = load_bundle("final_best").manifest
    learnt_from = {source.name: source.crops for source in manifest.training.data}
    assert set(learnt_from) == {MRL, UNLABELLED, *COLLECTIONS}
    assert learnt_from[UNLABELLED] == len(pool)
    assert UNLABELLED not in {source["name"] for source in read_recipe(project / "runs" / "committee")["sources"]}
    assert {metric.n for metric in manifest.metrics if metric.name == f"EER, {HELD_OUT}"} == {len(held_out)}


def check_model(name: str) -> None:
    scorer = eyestate.load(name)
    assert scorer.manifest.name == name
    scores = scorer.score([jpeg(pixels) for pixels, _ in labelled(4, seed=7)])
    assert ((scores >= 0) & (scores <= 1)).all()
    assert {f"EER, {name}" for name in (HELD_OUT, EASY, STRANGERS)} < {m.name for m in scorer.manifest.metrics}


@pytest.mark.timeout(1200)
def test_all_stages_on_generated_crops(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every stage on drawn eyes, with a network that trains in seconds in place of the one that ships."""
    for module in ("training.models.classifier", "training.models.member", "training.labelling.features"):
        monkeypatch.setattr(f"{module}.InceptionResnetV1", TinyNetwork)
    write_backbone(tmp_path / "weights.pt")
    generated_data(project.parent / "data")
    run_through(project, tmp_path / "weights.pt")

    check_final_best(project, "label_1", "label_2")
    for name in ("final_best_lite", "cascade"):
        check_model(name)
    comparison = json.loads((project / "runs" / "compare" / "comparison.json").read_text())
    tests = {"held_out", "held_out_easy", "mrl", *COLLECTIONS}
    assert all(set(attempt["eer"]) == tests for attempt in comparison["attempts"])
    assert [path for made in outputs(project).values() for path in made if not path.exists()] == []
    for name in ("final_best", "final_best_lite", "cascade"):
        assert f"# {name} 0.0.1" in (project / "models" / name / "README.md").read_text(encoding="utf-8")


@pytest.mark.shared
@pytest.mark.timeout(1200)
def test_up_to_the_export_on_real_crops(project: Path) -> None:
    """The stages from the data sets to final_best, with the network and the weights that it really starts from."""
    (weights,) = (REAL.parent / "weights").glob("*casia-webface*.pt")
    real_data(project.parent / "data")
    run_through(project, weights, "export")
    check_final_best(project, "label_2")


def test_the_miniature_has_the_parameters_of_the_repository() -> None:
    def names(params: object) -> object:
        return {name: names(value) for name, value in params.items()} if isinstance(params, dict) else None

    assert names(MINIATURE) == names(yaml.safe_load((ROOT / "params.yaml").read_text()))


def test_the_commands_and_parameters_of_the_repository_fit() -> None:
    for stage, (verb, *arguments) in commands(ROOT):
        command = main.get_command(click.Context(main), verb)
        assert command is not None, verb
        command.make_context(stage, arguments)
