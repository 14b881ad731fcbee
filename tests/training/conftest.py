"""A data set and a training run in miniature, on generated crops."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from facenet_pytorch import InceptionResnetV1
from PIL import Image

from eyestate.arrays import Pixels
from tests.training.tiny import MEMBER_SIDE, SIDE, TinyNetwork, write_backbone
from training.data.datasets import MRL, UNLABELLED, Crop, LabelledCrop, load_mrl, read_people
from training.data.split import SPLIT_FOLDS, Split, split_by_subject
from training.data.synthetic import labelled
from training.models.classifier import MIN_INPUT, Settings, train
from training.models.committee import train_committee
from training.models.member import MemberSettings

CROPS_PER_SUBJECT: Final = 8
COLLECTION: Final = "colour"
SHARES: Final = {MRL: 0.5, COLLECTION: 0.25, UNLABELLED: 0.25}


def jpeg(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="session", autouse=True)
def same_on_every_machine() -> Iterator[None]:
    """Train on the CPU, in float32 and in one thread: results and times then do not depend on the machine.

    The default, a GPU or else bfloat16 where there are instructions for it and a thread for every core, would have as
    many processes compete for them as pytest-xdist starts.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.cuda.is_available", lambda: False)
        patch.setattr("training.models.classifier.fastest_precision", lambda device: "32-true")
        patch.setattr("training.models.member.fastest_precision", lambda device: "32-true")
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


def write_people(root: Path, collections: Sequence[str], people: int) -> Path:
    """Write generated colour crops of so many people of each collection as ``load_people`` reads them, return ``root``.

    A collection is named by its folder, such as ``wide/fer2013``.
    """
    for number, collection in enumerate(collections):
        for person in range(people):
            for image, (pixels, label) in enumerate(labelled(4, seed=10_000 * (number + 1) + person)):
                path = root / collection / ("closed", "open")[label] / f"{person:05}_{image:05}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(jpeg(np.stack([pixels, pixels // 4 * 3, pixels // 3 * 2], axis=2)))
    return root


def far_crops(count: int, seed: int) -> Iterator[tuple[bytes, int]]:
    """Drawn eyes of 24 px, as the unlabelled crops are, and their labels."""
    for pixels, label in labelled(count, seed):
        yield jpeg(np.asarray(Image.fromarray(pixels).resize((24, 24)))), label


@pytest.fixture(scope="session")
def everybody(mrl: Path, tmp_path_factory: pytest.TempPathFactory) -> list[LabelledCrop]:
    """Labelled crops of MRL's people and of those of another collection."""
    return read_people(mrl, [write_people(tmp_path_factory.mktemp("people"), [COLLECTION], 6)])


@pytest.fixture(scope="session")
def pool() -> list[Crop]:
    """Unlabelled crops."""
    return [Crop(f"{number:06}.jpg", data) for number, (data, _) in enumerate(far_crops(16, seed=1000))]


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


def _once(temporary: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder ``name``, made once for all of pytest's workers."""
    folder = temporary.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    output = folder / f"shared-{name}" / name
    output.parent.mkdir(exist_ok=True)
    with (output.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (output.parent / "done").exists():
            make(output)
            (output.parent / "done").touch()
    return output


@pytest.fixture(scope="session")
def run(split: Split, small: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training run of InceptionResnetV1."""
    return _once(tmp_path_factory, "kaggle_model", lambda output: train(split, small, output))


@pytest.fixture(scope="session")
def member_settings(tmp_path_factory: pytest.TempPathFactory) -> MemberSettings:
    """Settings for the training of a member in a second, with ``TinyNetwork`` in place of InceptionResnetV1."""
    path = tmp_path_factory.mktemp("backbone") / "tiny-weights.pt"
    write_backbone(path)
    return MemberSettings(
        backbone=str(path),
        input_side=MEMBER_SIDE,
        epochs=1,
        crops_per_epoch=32,
        batch_size=16,
        average_decay=0.5,
    )


@pytest.fixture
def tiny_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """``TinyNetwork`` in place of InceptionResnetV1 in committees."""
    monkeypatch.setattr("training.models.member.InceptionResnetV1", TinyNetwork)


@pytest.fixture(scope="session")
def committee(
    everybody: list[LabelledCrop],
    pool: list[Crop],
    member_settings: MemberSettings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a finished committee of ``TinyNetwork``; to load it takes ``tiny_members``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.models.member.InceptionResnetV1", TinyNetwork)
        return _once(
            tmp_path_factory,
            "committee",
            lambda output: train_committee(everybody, pool, member_settings, output, shares=SHARES),
        )
