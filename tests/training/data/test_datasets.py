"""The data sets: what is read, in which order, what is refused and why."""

from __future__ import annotations

import io
import os
import random
import struct
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyestate.images import MAX_BYTES, decode, to_input
from training.data.datasets import (
    CLOSED,
    NAMED,
    OPEN,
    UNLABELLED,
    Crop,
    DataError,
    Dataset,
    LabelledCrop,
    count,
    data_dir,
    fingerprint,
    labels_of,
    load_crops,
    load_mrl,
    load_people,
    read_people,
    shrunk,
    sources,
)
from training.data.datasets import MRL as MRL_NAME

Files = Mapping[str, bytes]


def eye(seed: int, suffix: str = ".png") -> bytes:
    """An encoded image unlike that of any other seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, Image.registered_extensions()[suffix])
    return file.getvalue()


def folder(root: Path, files: Files) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def archive(root: Path, files: Files) -> Path:
    path = root / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in files.items():
            target.writestr(name, data)
    return path


Layout = Callable[[Files], Path]


@pytest.fixture(params=[folder, archive])
def lay_out(request: pytest.FixtureRequest, tmp_path: Path) -> Layout:
    """Write files as a folder, then as a zip archive, and give their path."""
    write: Callable[[Path, Files], Path] = request.param
    return lambda files: write(tmp_path, files)


MRL = {
    "mrlEyes_2018_01/s0001/s0001_00001_0_0_0_0_0_01.png": eye(0),
    "mrlEyes_2018_01/s0001/s0001_00002_0_1_1_2_1_03.jpg": eye(1, ".jpg"),
    "mrlEyes_2018_01/s0037/s0037_00001_1_0_1_1_0_02.PNG": eye(2),
}


def reasons(dataset: Dataset[Any]) -> dict[str, str]:
    return {refusal.name: refusal.reason for refusal in dataset.refused}


# Layouts


def test_original_layout(lay_out: Layout) -> None:
    first, second, third = MRL
    dataset = load_mrl(lay_out(MRL))
    assert dataset.crops == [
        replace(crop, collection=MRL_NAME)
        for crop in (
            LabelledCrop(first, MRL[first], CLOSED, "s0001", gender=0, glasses=0, reflections=0, light=0, sensor=1),
            LabelledCrop(second, MRL[second], OPEN, "s0001", gender=0, glasses=1, reflections=2, light=1, sensor=3),
            LabelledCrop(third, MRL[third], OPEN, "s0037", gender=1, glasses=0, reflections=1, light=0, sensor=2),
        )
    ]
    assert dataset.refused == []


@pytest.mark.parametrize(
    ("closed", "opened"),
    [
        ("data/train/sleepy/", "data/val/awake/"),
        ("train/Closed_Eyes/", "train/Open_Eyes/"),
        ("closed/", "open/"),
        ("closedEyes/part 1/", "openEyes/part 1/"),
    ],
)
def test_label_by_folder(lay_out: Layout, closed: str, opened: str) -> None:
    files = {
        closed + "s0005_00009_0_0_0_0_1_01.png": eye(0),
        closed + "some eye.bmp": eye(1, ".bmp"),
        opened + "s0006_00009_0_0_1_0_1_01.png": eye(2),
        opened + "_17.webp": eye(3, ".webp"),
    }
    found = {crop.name: (crop.label, crop.subject, crop.light) for crop in load_mrl(lay_out(files)).crops}
    assert found == {
        closed + "s0005_00009_0_0_0_0_1_01.png": (CLOSED, "s0005", 1),
        closed + "some eye.bmp": (CLOSED, None, None),
        opened + "s0006_00009_0_0_1_0_1_01.png": (OPEN, "s0006", 1),
        opened + "_17.webp": (OPEN, None, None),
    }


def test_unlabelled_crops(lay_out: Layout) -> None:
    files = {"EyesDataset/000001.jpg": eye(1, ".jpg"), "EyesDataset/000000.jpg": eye(0, ".jpg"), "2.png": b"", **MRL}
    dataset = load_crops(lay_out(files))
    assert dataset.crops == [Crop(name, files[name]) for name in sorted({*files} - {"2.png"})]
    assert reasons(dataset) == {"2.png": "the image is empty (0 bytes)"}


PEOPLE = {
    "colour/closed/00012_00001.jpg": eye(20, ".jpg"),
    "colour/open/00012_00000.jpg": eye(21, ".jpg"),
    "wide/fer2013/open/00012_00007.jpg": eye(22, ".jpg"),
    "wide/ganblink/closed/a_b_3.PNG": eye(23),
}


def test_people_of_several_collections(lay_out: Layout) -> None:
    dataset = load_people(lay_out({**PEOPLE, "colour/readme.txt": b""}))
    found = [(crop.name, crop.label, crop.subject, crop.collection) for crop in dataset.crops]
    assert found == [
        ("colour/closed/00012_00001.jpg", CLOSED, "colour/00012", "colour"),
        ("colour/open/00012_00000.jpg", OPEN, "colour/00012", "colour"),
        ("wide/fer2013/open/00012_00007.jpg", OPEN, "fer2013/00012", "fer2013"),
        ("wide/ganblink/closed/a_b_3.PNG", CLOSED, "ganblink/a_b", "ganblink"),
    ]
    assert dataset.refused == []


def test_people_that_cannot_be_used(lay_out: Layout) -> None:
    bad = {
        "colour/closed/00013_00002.jpg": PEOPLE["colour/open/00012_00000.jpg"],
        "colour/open/00012_00000.jpg": PEOPLE["colour/open/00012_00000.jpg"],
        "colour/open/00014_00001.jpg": b"not an image",
        "colour/open/nobody.jpg": eye(24, ".jpg"),
        "colour/shut/00015_00001.jpg": eye(25, ".jpg"),
        "open/00016_00001.jpg": eye(26, ".jpg"),
    }
    dataset = load_people(lay_out({**PEOPLE, **bad}))
    assert [crop.name for crop in dataset.crops] == [name for name in PEOPLE if name not in bad]
    found = reasons(dataset)
    assert {*found} == {*bad}
    expected = ["both open and closed", "both open and closed", "not an image", *["COLLECTION/open|closed/PERSON"] * 3]
    for name, reason in zip(bad, expected, strict=True):
        assert reason in found[name]


def test_all_people_in_a_fixed_order(tmp_path: Path) -> None:
    mrl, others = folder(tmp_path / "mrl", MRL), archive(tmp_path, PEOPLE)
    crops = read_people(mrl, [others])
    assert crops == [*load_mrl(mrl).crops, *load_people(others).crops]
    assert read_people(mrl, []) == load_mrl(mrl).crops


def test_a_folder_and_its_archive_are_the_same_data(tmp_path: Path) -> None:
    names = ["b/open/1.png", "b-c/open/1.png", "B/open/1.png", "a/open/10.png", "a/open/9.png"]
    files = {name: eye(i) for i, name in enumerate(names)}
    by_folder, by_archive = load_mrl(folder(tmp_path / "a", files)), load_mrl(archive(tmp_path, files))
    assert [crop.name for crop in by_folder.crops] == sorted(names)
    assert by_folder == by_archive
    assert fingerprint(by_folder.crops) == fingerprint(by_archive.crops)


def test_other_files_are_not_looked_at(lay_out: Layout) -> None:
    dataset = load_mrl(
        lay_out({**MRL, "annotation.txt": b"s0001: 0", "stats_2018_01.ods": b"PK", "open/a.gif": b"GIF"})
    )
    assert [crop.name for crop in dataset.crops] == list(MRL)
    assert dataset.refused == []


def test_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    dataset = load_crops(folder(tmp_path, {name: eye(0)}))
    assert [crop.name for crop in dataset.crops] == [name]
    assert fingerprint(dataset.crops) != fingerprint([Crop("cafe.png", eye(0))])


# Refusals


def test_unusable_files_are_refused_by_name(lay_out: Layout) -> None:
    bad = {
        "s0002/s0002_00001_0_0_0_0_0_01.png": eye(5)[:60],
        "s0002/s0002_00002_0_0_0_0_0_01.png": b"not an image",
        "s0002/s0002_00003_0_0_0_0_0_01.png": b"",
        "s0002/s0002_00004_0_0_0_0_0_01.bmp": bytes(MAX_BYTES + 5),
        "s0002/s0002_00005_0_0_7_0_0_01.png": eye(6),
        "s0002/holiday.jpg": eye(7, ".jpg"),
        "train/awake/s0002_00006_0_0_0_0_0_01.png": eye(8),
    }
    dataset = load_mrl(lay_out({**MRL, **bad}))
    assert [crop.name for crop in dataset.crops] == list(MRL)
    found = reasons(dataset)
    assert list(found) == sorted(bad)
    expected = ["damaged", "not an image", "empty", "20,971,521 bytes", "no label", "no label", "contradict"]
    for name, reason in zip(bad, expected, strict=True):
        assert reason in found[name]


def test_an_image_of_both_classes_is_dropped(lay_out: Layout) -> None:
    clash = {
        "s0003/s0003_00001_0_0_0_0_0_01.png": eye(9),
        "s0003/s0003_00002_0_0_1_0_0_01.png": eye(9),
        "s0004/s0004_00001_0_0_1_0_0_01.png": eye(9),
    }
    twice = {
        "s0003/s0003_00003_0_0_1_0_0_01.png": eye(10),
        "s0003/s0003_00004_0_0_1_0_0_01.png": eye(10),
    }
    dataset = load_mrl(lay_out({**MRL, **clash, **twice}))
    assert [crop.name for crop in dataset.crops] == [*MRL, *twice]
    assert reasons(dataset) == dict.fromkeys(clash, "the same image is labelled both open and closed")


@pytest.mark.parametrize(
    ("files", "refused"),
    [
        ({"readme.txt": b"no eyes here"}, 0),
        ({"open/0.jpg": b"no eye"}, 1),
        ({"open/1.png": eye(0), "closed/1.png": eye(0)}, 2),
    ],
)
def test_nothing_usable(lay_out: Layout, files: Files, refused: int) -> None:
    with pytest.raises(DataError, match=rf"no usable eye crop \({refused} files refused"):
        load_mrl(lay_out(files))


@pytest.mark.parametrize("load", [load_mrl, load_crops, load_people])
def test_missing_source(tmp_path: Path, load: Callable[[Path], Dataset[Any]]) -> None:
    with pytest.raises(DataError, match=r"mrl-eyes\.zip does not exist; set EYESTATE_DATA"):
        load(tmp_path / "mrl-eyes.zip")


def test_source_that_is_no_archive(tmp_path: Path) -> None:
    path = archive(tmp_path, MRL)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"data\.zip is neither a folder nor a zip archive"):
        load_mrl(path)


# A member's record in the archive's directory, from its beginning: version 4, flags 8, method 10; name from 46.


def damage_pixels(data: bytearray, record: int) -> None:
    local = struct.unpack_from("<I", data, record + 42)[0]
    data[local + 110] ^= 0xFF


def damage_header(data: bytearray, record: int) -> None:
    data[struct.unpack_from("<I", data, record + 42)[0]] ^= 0xFF


def encrypt(data: bytearray, record: int) -> None:
    data[record + 8] |= 1
    data[struct.unpack_from("<I", data, record + 42)[0] + 6] |= 1


def compress_strangely(data: bytearray, record: int) -> None:
    data[record + 10] = 97  # WavPack


@pytest.mark.parametrize("damage", [damage_pixels, damage_header, encrypt, compress_strangely])
def test_damaged_member_is_refused_by_name(tmp_path: Path, damage: Callable[[bytearray, int], None]) -> None:
    path = archive(tmp_path, MRL)
    broken, *intact = MRL
    data = bytearray(path.read_bytes())
    damage(data, data.rindex(broken.encode()) - 46)
    path.write_bytes(data)
    dataset = load_mrl(path)
    assert [crop.name for crop in dataset.crops] == intact
    assert reasons(dataset)[broken].startswith("unreadable: ")


def test_damaged_directory(tmp_path: Path) -> None:
    path = archive(tmp_path, MRL)
    data = bytearray(path.read_bytes())
    data[data.rindex(next(iter(MRL)).encode()) - 46] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"data\.zip is a damaged zip archive"):
        load_mrl(path)


def test_no_damage_to_an_archive_goes_unanswered(tmp_path: Path) -> None:
    path = archive(tmp_path, MRL)
    intact = path.read_bytes()
    chance = random.Random(0)
    outcomes: Counter[str] = Counter()
    for _ in range(400):
        data = bytearray(intact)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            dataset = load_mrl(path)
        except DataError:
            outcomes["archive refused"] += 1
        else:
            assert {crop.data for crop in dataset.crops} <= {*MRL.values()}
            outcomes["files refused" if dataset.refused else "all read"] += 1
    assert {*outcomes} == {"archive refused", "files refused", "all read"}


# Where the data lie


def test_data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EYESTATE_DATA", str(tmp_path))
    assert data_dir() == tmp_path
    monkeypatch.delenv("EYESTATE_DATA")
    assert data_dir().parts[-2:] == ("shared", "data")


# Fingerprint and counts


CROPS = [Crop("a.png", b"one", CLOSED), Crop("b.png", b"two", OPEN), Crop("c.png", b"", None)]


def test_fingerprint_of_equal_data_is_equal() -> None:
    assert fingerprint(CROPS) == fingerprint([replace(crop) for crop in CROPS])


@pytest.mark.parametrize(
    "changed",
    [
        CROPS[:-1],
        CROPS[::-1],
        [replace(CROPS[0], data=b"One"), *CROPS[1:]],
        [replace(CROPS[0], name="A.png"), *CROPS[1:]],
        [replace(CROPS[0], label=OPEN), *CROPS[1:]],
        [replace(CROPS[0], label=None), *CROPS[1:]],
        [replace(CROPS[0], data=b"oneb.png\x001\x00two"), CROPS[2]],
    ],
)
def test_fingerprint_changes_with_the_data(changed: list[Crop]) -> None:
    assert fingerprint(changed) != fingerprint(CROPS)


def test_sources() -> None:
    crops = [
        Crop("a.png", b"one"),
        Crop("b.png", b"two", OPEN, "colour/2", collection="colour"),
        Crop("c.png", b"three", OPEN, "colour/1", collection="colour"),
        Crop("d.png", b"four", CLOSED, "colour/2", collection="colour"),
        *(Crop(f"{n}.png", b"", OPEN, f"wide/{n}", collection="wide") for n in range(NAMED + 1)),
    ]
    unlabelled, colour, wide = sources(crops)
    assert (unlabelled.name, unlabelled.crops, unlabelled.people, unlabelled.subjects) == (UNLABELLED, 1, 0, [])
    assert (colour.name, colour.crops, colour.people) == ("colour", 3, 2)
    assert colour.subjects == ["colour/1", "colour/2"]
    assert colour.fingerprint == fingerprint(crops[1:4])
    assert (wide.people, wide.subjects) == (NAMED + 1, [])  # too many to name
    assert sources([]) == []


def test_count(tmp_path: Path) -> None:
    crops = load_mrl(folder(tmp_path, MRL)).crops
    assert count(crops, "glasses") == {("no", CLOSED): 1, ("yes", OPEN): 1, ("no", OPEN): 1}
    assert count(crops, "sensor") == {("RealSense", CLOSED): 1, ("Aptina", OPEN): 1, ("IDS", OPEN): 1}
    assert count(crops, "subject") == {("s0001", CLOSED): 1, ("s0001", OPEN): 1, ("s0037", OPEN): 1}
    assert count([Crop("x.png", b"")], "gender") == {}


# Labels


@pytest.mark.parametrize("label", [None, 2, -1])
def test_labelled_crop_needs_a_label(label: Any) -> None:
    with pytest.raises(DataError, match=r"a\.png has no label"):
        LabelledCrop("a.png", b"", label)


def test_labelling_keeps_everything_else() -> None:
    crop = Crop("a.png", b"one", None, "s0001", glasses=1)
    assert crop.labelled(OPEN) == LabelledCrop("a.png", b"one", OPEN, "s0001", glasses=1)
    assert crop.labelled(OPEN, 0.7) == LabelledCrop("a.png", b"one", OPEN, "s0001", glasses=1, target=0.7)


def test_unlabelling_takes_label_and_target_alone() -> None:
    crop = LabelledCrop("a.png", b"one", OPEN, "s0001", glasses=1, target=0.7, collection="colour")
    assert crop.unlabelled() == Crop("a.png", b"one", None, "s0001", glasses=1, collection="colour")


def test_labels() -> None:
    labels = labels_of([crop.labelled(label) for crop, label in zip(CROPS, (CLOSED, OPEN, OPEN), strict=True)])
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 1, 1]


# From afar


def test_shrunk_crop() -> None:
    crop = Crop("open/far.png", eye(0), OPEN, "s0001", glasses=1)
    far = shrunk(crop, 8)
    np.testing.assert_array_equal(decode(far.data), to_input(decode(crop.data), 8))
    assert replace(far, data=crop.data) == crop


# The real data


@pytest.fixture(scope="module")
def real_mrl() -> Dataset[LabelledCrop]:
    path = data_dir() / "mrl-eyes.zip"
    if not path.exists():
        pytest.skip(f"no MRL Eye Dataset at {path}")
    return load_mrl(path)


@pytest.mark.shared
def test_real_mrl(real_mrl: Dataset[LabelledCrop]) -> None:
    assert len(real_mrl.crops) + len(real_mrl.refused) == 76_229
    assert {refusal.reason for refusal in real_mrl.refused} == {"the same image is labelled both open and closed"}
    refused = Counter(Path(refusal.name).parent.name for refusal in real_mrl.refused)
    assert refused == {"s0013": 54, "s0016": 8, "s0012": 2}
    assert len({crop.subject for crop in real_mrl.crops}) == 28
    closed_only = {crop.subject for crop in real_mrl.crops} - {
        crop.subject for crop in real_mrl.crops if crop.label == OPEN
    }
    assert closed_only == {"s0004", "s0008"}


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("colour-eyes.zip", {"colour": 1_774}),
        ("wide-eyes.zip", {"fer2013": 8_927, "utkface": 5_632, "ganblink": 5_210}),
    ],
)
def test_real_people(file: str, counts: dict[str, int]) -> None:
    path = data_dir() / file
    if not path.exists():
        pytest.skip(f"no {path}")
    dataset = load_people(path)
    assert Counter(crop.collection for crop in dataset.crops) == counts
    assert dataset.refused == []
    assert all(len({crop.subject for crop in dataset.crops if crop.collection == name}) >= 100 for name in counts)
