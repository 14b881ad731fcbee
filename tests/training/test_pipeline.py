"""The pipeline of dvc.yaml in miniature, from unlabelled crops to bundles and cards, stage by stage as DVC runs it."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import networkx
import pytest
from click.testing import CliRunner
from dvc.repo import Repo
from PIL import Image

import eyestate
from eyestate.bundle import load_bundle
from tests.training.conftest import jpeg, write_mrl
from tests.training.tiny import SIDE, TinyNetwork, write_backbone
from training.__main__ import main
from training.data.datasets import data_dir, load_crops, load_mrl
from training.data.labels import Answer, read_answers, write_answers
from training.data.split import SPLIT_FOLDS
from training.data.synthetic import labelled
from training.models.classifier import MIN_INPUT

ROOT = Path(__file__).parents[2]
REAL = data_dir()  # a test's project has data of its own
KAGGLE_MODEL = {"epochs": 1, "crops_per_epoch": 2560, "average_decay": 0.8}
MINIATURE = {
    "cluster": {"trials": 4, "seed": 0},
    "baseline": {
        "best_1000": {"epochs": 1, "crops_per_epoch": 64},
        "final": {"epochs": 1, "crops_per_epoch": 64},
        "learning_rate": 1e-4,
        "average_decay": 0.5,
        "budget": 10,
    },
    "self_train": {
        "rounds": 2,
        "epochs": 1,
        "crops_per_epoch": 64,
        "learning_rate": 1e-4,
        "average_decay": 0.5,
        "own_share": 0.5,
        "budget": 10,
    },
    "final_best": {
        "version": "0.0.1",
        "epochs": 1,
        "crops_per_epoch": 64,
        "learning_rate": 1e-4,
        "average_decay": 0.5,
        "own_share": 0.5,
    },
    "lite": {
        "version": "0.0.1",
        "max_wrong": 0.01,
        "views": 512,
        "own_share": 0.5,
        "search": {"views": 256, "trials": 1},
        "epochs": 1,
        "batch_size": 64,
        "learning_rate": 9e-3,
        "average_decay": 0.5,
    },
}


def generated_data(data: Path) -> None:
    """Drawn eyes in the layout of the data sets: MRL's, unlabelled 24-px crops and what two people said of them."""
    write_mrl(data / "mrl-eyes.zip", 2 * SPLIT_FOLDS)  # two subjects to validate by
    answers = []
    with zipfile.ZipFile(data / "eyes-dataset.zip", "w") as archive:
        for number, (pixels, label) in enumerate(labelled(80, seed=1000)):
            small = Image.fromarray(pixels).resize((24, 24))
            file = io.BytesIO()
            small.save(file, "JPEG")
            archive.writestr(f"EyesDataset/{number:06}.jpg", file.getvalue())
            answers.append(Answer(f"{number:06}.jpg", label, 2, 2 * label))
    write_answers(data / "human-labels.csv", answers)


def real_data(data: Path) -> None:
    """A few crops of each subject and state of MRL, and a few hundred of the unlabelled ones."""
    by_subject: dict[tuple[str | None, int | None], int] = {}
    (data / "mrl").mkdir()
    for crop in load_mrl(REAL / "mrl-eyes.zip").crops:
        key = (crop.subject, crop.label)
        by_subject[key] = by_subject.get(key, 0) + 1
        if by_subject[key] <= 8:
            (data / "mrl" / Path(crop.name).name).write_bytes(crop.data)
    (data / "mrl").rename(data / "mrl-eyes.zip")
    crops = load_crops(REAL / "eyes-dataset.zip").crops[:320]
    with zipfile.ZipFile(data / "eyes-dataset.zip", "w") as archive:
        for unlabelled in crops:
            archive.writestr(unlabelled.name, unlabelled.data)
    shutil.copy(REAL / "human-labels.csv", data)


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


def run_through(project: Path, backbone: Path, target: str | None = None, *, input_side: int = SIDE) -> None:
    params = {
        "data": "../data",
        "backbone": str(backbone),
        "label": "--answers ../data/human-labels.csv",
        **MINIATURE,
        "kaggle_model": {**KAGGLE_MODEL, "input_side": input_side},
    }
    (project / "params.yaml").write_text(json.dumps(params))
    for stage, arguments in commands(project, target):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f"{stage}: {result.exception!r} {result.output}"


def check_final_best(project: Path) -> None:
    asked = [read_answers(project / "runs" / queue / "answers.csv") for queue in ("label_1", "label_2")]
    assert all(0 < len(answers) <= 10 for answers in asked)
    check_model("final_best")
    training = load_bundle("final_best").manifest.training
    assert {source.name for source in training.data} == {"MRL Eye Dataset", "eye crops without labels"}


def check_model(name: str) -> None:
    scorer = eyestate.load(name)
    assert scorer.manifest.name == name
    scores = scorer.score([jpeg(pixels) for pixels, _ in labelled(4, seed=7)])
    assert ((scores >= 0) & (scores <= 1)).all()
    assert "EER, held-out crops of the unlabelled set" in {metric.name for metric in scorer.manifest.metrics}


@pytest.mark.timeout(1200)
def test_all_stages_on_generated_crops(project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every stage on drawn eyes, with a network that trains in seconds in place of the one that ships."""
    for module in ("training.models.classifier", "training.labelling.features"):
        monkeypatch.setattr(f"{module}.InceptionResnetV1", TinyNetwork)
    monkeypatch.setattr("training.models.classifier.fastest_precision", lambda: "32-true")
    write_backbone(tmp_path / "weights.pt")
    generated_data(project.parent / "data")
    run_through(project, tmp_path / "weights.pt")

    check_final_best(project)
    for name in ("final_best_lite", "cascade"):
        check_model(name)
    comparison = json.loads((project / "runs" / "compare" / "comparison.json").read_text())
    assert all(attempt["eer"] for attempt in comparison["attempts"])
    with warnings.catch_warnings(), Repo(project) as repo:
        warnings.simplefilter("ignore", DeprecationWarning)  # between DVC and pygtrie
        outputs = [Path(out.fs_path) for stage in repo.index.stages for out in stage.outs]
    assert [path for path in outputs if not path.exists()] == []
    for name in ("final_best", "final_best_lite", "cascade"):
        assert f"# {name} 0.0.1" in (project / "models" / name / "README.md").read_text(encoding="utf-8")


@pytest.mark.shared
@pytest.mark.timeout(1200)
def test_up_to_the_export_on_real_crops(project: Path) -> None:
    """The stages from the data sets to final_best, with the network and the weights that it really starts from."""
    (weights,) = (REAL.parent / "weights").glob("*casia-webface*.pt")
    real_data(project.parent / "data")
    run_through(project, weights, "export", input_side=MIN_INPUT)
    check_final_best(project)


def test_the_commands_and_parameters_of_the_repository_fit() -> None:
    for stage, (verb, *arguments) in commands(ROOT):
        command = main.get_command(click.Context(main), verb)
        assert command is not None, verb
        command.make_context(stage, arguments)
