"""The pipeline of dvc.yaml in miniature, from unlabelled crops to a bundle that scores, stage by stage as DVC would."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest
from click.testing import CliRunner
from dvc.repo import Repo
from PIL import Image

import eyestate
from eyestate.bundle import Manifest
from tests.training.conftest import jpeg
from training.__main__ import main
from training.data.datasets import data_dir, load_crops, load_mrl
from training.data.labels import Answer, read_answers, write_answers
from training.data.synthetic import labelled
from training.models.classifier import MIN_INPUT

ROOT = Path(__file__).parents[2]
REAL = data_dir()  # a test's project has data of its own
MINIATURE = {
    "cluster": {"trials": 4, "seed": 0},
    "kaggle_model": {"input_side": MIN_INPUT, "epochs": 1, "crops_per_epoch": 2560, "average_decay": 0.8},
    "as_told": {
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
    "final_long": {
        "epochs": 2,
        "crops_per_epoch": 64,
        "learning_rate": 1e-4,
        "average_decay": 0.5,
        "own_share": 0.5,
    },
}


def generated_data(data: Path, mrl: Path) -> None:
    """Drawn eyes in the layout of the data sets: MRL's, unlabelled 24-px crops and what two people said of them."""
    shutil.copytree(mrl, data / "mrl-eyes.zip")
    answers = []
    with zipfile.ZipFile(data / "eyes-dataset.zip", "w") as archive:
        for number, (pixels, label) in enumerate(labelled(120, seed=1000)):
            small = Image.fromarray(pixels).resize((24, 24))
            file = io.BytesIO()
            small.save(file, "JPEG")
            archive.writestr(f"EyesDataset/{number:06}.jpg", file.getvalue())
            answers.append(Answer(f"{number:06}.jpg", label, 2, 2 * label))
    write_answers(data / "human-labels.csv", answers)


def real_data(data: Path) -> None:
    """A few hundred crops of the real data sets."""
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
        for crop in crops:
            archive.writestr(crop.name, crop.data)
    shutil.copy(REAL / "human-labels.csv", data)


def stages(project: Path) -> Iterator[tuple[str, str]]:
    """Name and command of each stage of the project's dvc.yaml, in an order in which they can run."""
    with warnings.catch_warnings(), Repo(project) as repo:
        warnings.simplefilter("ignore", DeprecationWarning)  # between DVC and pygtrie
        graph = repo.index.graph
        for stage in networkx.dfs_postorder_nodes(graph):
            yield stage.name, stage.cmd


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with the repository's dvc.yaml, as the current folder."""
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "dvc.yaml", project)
    Repo.init(project, no_scm=True)
    monkeypatch.chdir(project)
    monkeypatch.setenv("EYESTATE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("EYESTATE_MODELS", str(project / "models"))
    return project


def run_through(project: Path, backbone: Path) -> None:
    params = {
        "data": "../data",
        "backbone": str(backbone),
        "label": "--answers ../data/human-labels.csv",
        **MINIATURE,
    }
    (project / "params.yaml").write_text(json.dumps(params))
    for name, command in stages(project):
        program, *arguments = shlex.split(command)
        assert [program, *arguments[:2]] == ["python", "-m", "training"]
        result = CliRunner().invoke(main, arguments[2:])
        assert result.exit_code == 0, f"{name}: {result.exception!r} {result.output}"

    asked = [read_answers(project / "runs" / queue / "answers.csv") for queue in ("label_1", "label_2")]
    assert all(len(answers) <= 10 for answers in asked)
    comparison = json.loads((project / "runs" / "compare" / "comparison.json").read_text())
    assert all(attempt["eer"] for attempt in comparison["attempts"])
    scorer = eyestate.load("final_best")
    assert scorer.manifest.name == "final_best"
    assert isinstance(scorer.manifest, Manifest)
    assert {source.name for source in scorer.manifest.training.data} == {"MRL Eye Dataset", "eye crops without labels"}
    scores = scorer.score([jpeg(pixels) for pixels, _ in labelled(4, seed=7)])
    assert ((scores >= 0) & (scores <= 1)).all()
    for name in ("final_best_lite", "cascade"):
        made = eyestate.load(name)
        assert made.manifest.name == name
        assert (made.score([jpeg(pixels) for pixels, _ in labelled(4, seed=7)]) >= 0).all()
    assert (project / "reports" / "final_best" / "evaluation.json").exists()


@pytest.mark.timeout(900)
def test_on_generated_crops(project: Path, mrl: Path, backbone: Path) -> None:
    generated_data(project.parent / "data", mrl)
    run_through(project, backbone)


@pytest.mark.shared
@pytest.mark.timeout(900)
def test_on_real_crops(project: Path) -> None:
    (weights,) = (REAL.parent / "weights").glob("*casia-webface*.pt")
    real_data(project.parent / "data")
    run_through(project, weights)


def test_the_commands_and_parameters_of_the_repository_fit() -> None:
    for name, command in stages(ROOT):
        verb, *arguments = shlex.split(command)[3:]
        main.commands[verb].make_context(name, arguments)
