"""dvc.lock says what is true of this repository, and ``training.record`` keeps it so."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

from eyestate.bundle import load_model, models_dir
from training import record
from training.export.card import card

ROOT = Path(__file__).parents[2]
PIPELINE = """\
stages:
  learn:
    cmd: python -m training learn
    deps: [data.csv, training]
    outs:
      - runs/network: {cache: false}
  export:
    cmd: python -m training export
    deps: [runs/network, training]
    outs:
      - models/network: {cache: false}
"""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # between DVC and pygtrie
        yield


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recorded pipeline whose intermediate output was lost since."""
    files = {"dvc.yaml": PIPELINE, "data.csv": "1", "training/code.py": "x = 1", "models/network": "shipped"}
    for name, text in (files | {"runs/network": "weights"}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True)
    with Repo() as repo:
        record.record(repo)
    (tmp_path / "runs/network").unlink()
    return tmp_path


def changes() -> set[str]:
    """Of each stage what differs from dvc.lock, but for missing files."""
    with Repo() as repo:
        return {
            f"{stage.addressing} {name} {change}"
            for stage in repo.index.stages
            for part in (*stage.deps, *stage.outs)
            for name, change in part.status().items()
            if change != "deleted"
        }


def test_edited_code_is_recorded(project: Path) -> None:
    (project / "training/code.py").write_text("y = 1")
    assert changes() == {"learn training modified", "export training modified"}
    record.main()
    assert changes() == set()


def test_what_is_missing_keeps_its_hash(project: Path) -> None:
    (project / "training/code.py").write_text("y = 1")
    record.main()
    (project / "runs/network").write_text("weights")
    assert changes() == set()
    (project / "runs/network").write_text("other weights")
    assert changes() == {"learn runs/network modified", "export runs/network modified"}


@pytest.mark.parametrize(
    ("file", "text", "stage"),
    [
        ("data.csv", "2", "learn: data.csv modified"),
        ("models/network", "another", "export: models/network modified"),
        ("dvc.yaml", PIPELINE.replace("training export", "training export --twice"), "export: the command changed"),
    ],
)
def test_other_changes_must_run(project: Path, file: str, text: str, stage: str) -> None:
    before = (project / "dvc.lock").read_text()
    (project / file).write_text(text)
    with pytest.raises(SystemExit, match=f"{stage}\nrun `make train`"):
        record.main()
    assert (project / "dvc.lock").read_text() == before


def test_only_what_cards_depend_on_is_recorded(project: Path) -> None:
    others = "  aside:\n    cmd: python -m training aside\n    deps: [training]\n"
    cards = "  card:\n    cmd: python -m training card\n    deps: [models/network]\n"
    (project / "dvc.yaml").write_text(PIPELINE + others + cards)
    with Repo(project) as repo:
        assert [stage.addressing for stage in record.shipping(repo)] == ["learn", "export", "card"]


def test_the_lock_of_what_ships_is_current() -> None:
    """After an edit that changes no result, `make record`; after any other, `make train`."""
    with Repo(ROOT) as repo:
        for stage in record.shipping(repo):
            assert not stage.changed_stage(), f"the command of {stage.addressing} changed"
            for part in (*stage.deps, *stage.outs):
                assert set(part.status().values()) <= {"deleted"}, f"{part} changed for {stage.addressing}"


def test_what_is_committed_is_there() -> None:
    """Only what lies in runs/, or outside of the repository, may be missing."""
    with Repo(ROOT) as repo:
        parts = [part for stage in repo.index.stages for part in (*stage.deps, *stage.outs)]
        committed = {Path(part.fs_path) for part in parts if part.is_in_repo and not part.def_path.startswith("runs/")}
    assert committed
    assert [path for path in committed if not path.exists()] == []


@pytest.mark.parametrize("model", sorted(path.parent.name for path in models_dir().glob("*/manifest.json")))
def test_card_is_rendered_from_the_committed_results(model: str) -> None:
    bundle = load_model(model)
    assert (bundle.path / "README.md").read_text(encoding="utf-8") == card(bundle.manifest, ROOT / "reports" / model)
