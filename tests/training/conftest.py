"""A data set and a training run in miniature, on generated crops."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from facenet_pytorch import InceptionResnetV1
from PIL import Image

from eyestate.arrays import Pixels
from tests.training.tiny import SIDE, TinyNetwork, write_backbone
from training.data.datasets import load_mrl
from training.data.split import SPLIT_FOLDS, Split, split_by_subject
from training.data.synthetic import labelled
from training.models.classifier import MIN_INPUT, Settings, train

CROPS_PER_SUBJECT = 8


def jpeg(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="session", autouse=True)
def same_on_every_machine() -> Iterator[None]:
    """Train in float32, in one thread and one process: results and times then do not depend on the processor.

    The default, bfloat16 where there are instructions for it and a thread and a loader for every core, would have as
    many processes compete for the cores as pytest-xdist starts.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.models.classifier.fastest_precision", lambda: "32-true")
        patch.setattr("training.models.learner.loader_workers", lambda: 0)
        patch.setattr("training.models.distillation_set.loader_workers", lambda: 0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def mrl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in MRL's original layout: generated crops of as many subjects as a split needs."""
    return write_mrl(tmp_path_factory.mktemp("mrl"), SPLIT_FOLDS)


def write_mrl(root: Path, subjects: int) -> Path:
    """Write generated crops of so many subjects in MRL's original layout, and return ``root``."""
    for subject in range(1, subjects + 1):
        folder = root / "mrlEyes_2018_01" / f"s{subject:04d}"
        folder.mkdir(parents=True)
        for number, (pixels, label) in enumerate(labelled(CROPS_PER_SUBJECT, seed=subject), 1):
            name = f"s{subject:04d}_{number:05d}_0_{subject % 2}_{label}_0_1_01.jpg"
            (folder / name).write_bytes(jpeg(pixels))
    return root


@pytest.fixture(scope="session")
def split(mrl: Path) -> Split:
    return split_by_subject(load_mrl(mrl).crops)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the form of a pretrained backbone: a state_dict in fp16 without logits."""
    torch.manual_seed(0)
    weights = InceptionResnetV1().state_dict()
    path = tmp_path_factory.mktemp("backbone") / "random-weights.pt"
    torch.save({name: value.half() for name, value in weights.items() if not name.startswith("logits")}, path)
    return path


@pytest.fixture(scope="session")
def small(backbone: Path) -> Settings:
    """Settings for a training run of seconds."""
    return Settings(
        backbone=str(backbone), input_side=MIN_INPUT, epochs=2, crops_per_epoch=32, batch_size=8, learning_rate=1e-3
    )


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Settings for a training run of a second, with ``TinyNetwork`` in place of InceptionResnetV1."""
    monkeypatch.setattr("training.models.classifier.InceptionResnetV1", TinyNetwork)
    write_backbone(tmp_path / "backbone.pt")
    return Settings(backbone=str(tmp_path / "backbone.pt"), input_side=SIDE, epochs=1, crops_per_epoch=16, batch_size=8)


@pytest.fixture
def tiny_run(split: Split, tiny: Settings, tmp_path: Path) -> Path:
    """The folder of a finished training run of ``TinyNetwork``."""
    train(split, tiny, tmp_path / "tiny_run")
    return tmp_path / "tiny_run"


@pytest.fixture(scope="session")
def run(split: Split, small: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training run of the network that ships; trained once for all of pytest's workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    output = folder / "run" / "kaggle_model"
    output.parent.mkdir(exist_ok=True)
    with (output.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (output.parent / "done").exists():
            train(split, small, output)
            (output.parent / "done").touch()
    return output
