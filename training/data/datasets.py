"""Read the data sets, from a zip archive or a folder: MRL and other labelled crops of people, and unlabelled crops."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from eyestate.errors import EyestateError, UnreadableFileError
from eyestate.files import LeftOut, is_image, walk, zip_members
from eyestate.images import MAX_BYTES, decode, to_input

CLOSED: Final = 0
OPEN: Final = 1

# subject_image_gender_glasses_eyestate_reflections_light_sensor, mrl.cs.vsb.cz/eyedataset
_MRL_NAME: Final = re.compile(
    r"(?P<subject>s\d{4})_\d{5}_(?P<gender>[01])_(?P<glasses>[01])_(?P<label>[01])"
    r"_(?P<reflections>[012])_(?P<light>[01])_(?P<sensor>0[123])\.\w+"
)
_PERSON_NAME: Final = re.compile(r"(?:.*/)?([^/]+)/(open|closed)/([^/]+)_\d+\.\w+")
_LABEL_FOLDERS: Final = {
    "awake": OPEN,
    "open": OPEN,
    "open_eyes": OPEN,
    "openeyes": OPEN,
    "sleepy": CLOSED,
    "closed": CLOSED,
    "closed_eyes": CLOSED,
    "closedeyes": CLOSED,
}
ATTRIBUTES: Final = {
    "gender": {0: "man", 1: "woman"},
    "glasses": {0: "no", 1: "yes"},
    "reflections": {0: "none", 1: "small", 2: "big"},
    "light": {0: "bad", 1: "good"},
    "sensor": {1: "RealSense", 2: "IDS", 3: "Aptina"},
}
MRL: Final = "MRL Eye Dataset"
UNLABELLED: Final = "eye crops without labels"
NAMED: Final = 100  # people of a collection that are named
FAR_SIDE: Final = 24  # pixels: an eye filmed from afar, and the size of the unlabelled crops


class DataError(EyestateError):
    """A data set that is missing, empty or unusable."""

    code = "bad_data"


@dataclass(frozen=True, slots=True)
class Crop:
    """One eye crop: the encoded image and, for MRL, the attributes in its file name.

    Attributes:
        name: of the file, within its data set.
        data: the encoded image.
        label: 0 (closed) or 1 (open), None where unknown.
        subject: who is shown, where that is known; unique over all data sets.
        gender, glasses, reflections, light, sensor: MRL's codes (``ATTRIBUTES``).
        target: the P(open) to train towards, where that is less certain than the label.
        collection: the data set, or the part of one, that it comes from.
    """

    name: str
    data: bytes
    label: int | None = None
    subject: str | None = None
    gender: int | None = None
    glasses: int | None = None
    reflections: int | None = None
    light: int | None = None
    sensor: int | None = None
    target: float | None = None
    collection: str = UNLABELLED

    def labelled(self, label: int, target: float | None = None) -> LabelledCrop:
        """The crop with a label, 0 (closed) or 1 (open), and perhaps a P(open) to train towards."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return LabelledCrop(**values | {"label": label, "target": target})

    def unlabelled(self) -> Crop:
        """The crop without what is known or believed of its label."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return Crop(**values | {"label": None, "target": None})


@dataclass(frozen=True, slots=True)
class LabelledCrop(Crop):
    """A crop whose label is known: what networks are trained and evaluated on.

    Raises:
        DataError: the label is neither 0 nor 1.
    """

    label: int

    def __post_init__(self) -> None:
        if self.label not in (CLOSED, OPEN):
            raise DataError(f"{self.name} has no label: it is neither open nor closed")


def labels_of(crops: Iterable[LabelledCrop]) -> npt.NDArray[np.int64]:
    """The labels of crops: int64 (N,), 0 closed and 1 open."""
    return np.array([crop.label for crop in crops], dtype=np.int64)


C = TypeVar("C", bound=Crop)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset(Generic[C]):
    """The crops of one source in the order of their names, the files that were refused, and what was left out."""

    crops: Sequence[C]
    refused: list[Refusal]
    left_out: LeftOut = field(default_factory=LeftOut, compare=False)


def data_dir() -> Path:
    """The folder of the data sets: ``$EYESTATE_DATA``, else ``../shared/data`` beside the project."""
    configured = os.environ.get("EYESTATE_DATA")
    return Path(configured) if configured else Path(__file__).parents[3] / "shared" / "data"


def fingerprint(crops: Iterable[Crop]) -> str:
    """SHA-256 over names, labels or targets, and bytes of the crops, in hexadecimal: equal where the data are."""
    digest = hashlib.sha256()
    for crop in crops:
        label = crop.label if crop.target is None else crop.target
        digest.update(f"{crop.name}\0{label}\0{len(crop.data)}\0".encode(errors="surrogateescape"))
        digest.update(crop.data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class TrainingSource:
    """The crops of one data set that a network is trained on; its people are named where they are at most ``NAMED``."""

    name: str
    crops: int
    people: int
    subjects: list[str]
    fingerprint: str


def sources(crops: Sequence[Crop]) -> list[TrainingSource]:
    """The crops by collection, in the order in which they first appear."""
    kinds: dict[str, list[Crop]] = {}
    for crop in crops:
        kinds.setdefault(crop.collection, []).append(crop)
    people = {name: sorted({crop.subject for crop in kind if crop.subject}) for name, kind in kinds.items()}
    return [
        TrainingSource(
            name,
            len(kind),
            len(people[name]),
            people[name] if len(people[name]) <= NAMED else [],
            fingerprint(kind),
        )
        for name, kind in kinds.items()
    ]


def load_mrl(source: Path) -> Dataset[LabelledCrop]:
    """Read the MRL Eye Dataset, leaving out files that are unreadable, unlabelled or in both classes.

    Args:
        source: a zip archive or a folder, in the original layout (``mrlEyes_2018_01/sSSSS/sSSSS_….png``: subject,
            label and attributes by file name) or Kaggle's (``train|val|test/awake|sleepy`` and
            ``Open_Eyes|Closed_Eyes``: label by folder, the rest by file name where it has MRL's form).

    Raises:
        DataError: the source is missing, is no zip archive or holds no usable crop.
    """
    crops, refused, left_out = _load(source, _labelled_crop)
    crops, clashes = _drop_contradictions(crops)
    return _usable(source, crops, refused + clashes, left_out)


def load_people(source: Path) -> Dataset[LabelledCrop]:
    """Read labelled crops of people, named ``COLLECTION/{open,closed}/PERSON_NUMBER.jpg``.

    Images that are in both classes are left out, as are files that are unreadable or named otherwise.

    Args:
        source: a zip archive or a folder of one or several collections.

    Raises:
        DataError: the source is missing, is no zip archive or holds no usable crop.
    """
    crops, refused, left_out = _load(source, _crop_of_a_person)
    crops, clashes = _drop_contradictions(crops)
    return _usable(source, crops, refused + clashes, left_out)


def read_people(mrl: Path, people: Sequence[Path]) -> list[LabelledCrop]:
    """All labelled crops, MRL's first, in a fixed order.

    Raises:
        DataError: as ``load_mrl`` and ``load_people``.
    """
    return [*load_mrl(mrl).crops, *(crop for source in people for crop in load_people(source).crops)]


def load_crops(source: Path) -> Dataset[Crop]:
    """Read unlabelled eye crops from a zip archive or a folder, leaving out unreadable files.

    The crops are named without the folder that all of them stand in, so that an archive and the folder it was made
    from give the same names.

    Raises:
        DataError: the source is missing, is no zip archive or holds no usable crop.
    """
    crops, refused, left_out = _load(source, Crop)
    folders = [PurePosixPath(crop.name).parent.as_posix() for crop in crops]
    common = os.path.commonpath(folders) if folders else ""
    return _usable(
        source,
        [dataclasses.replace(crop, name=PurePosixPath(crop.name).relative_to(common).as_posix()) for crop in crops],
        refused,
        left_out,
    )


def shrunk(crop: C, side: int = FAR_SIDE) -> C:
    """The crop at ``side``×``side`` pixels, as if the eye had been filmed from afar."""
    file = io.BytesIO()
    Image.fromarray(to_input(decode(crop.data), side)).save(file, "PNG")
    return dataclasses.replace(crop, data=file.getvalue())


def _usable(source: Path, crops: Sequence[C], refused: list[Refusal], left_out: LeftOut) -> Dataset[C]:
    if not crops:
        also = f"; {left_out}" if left_out else ""
        raise DataError(f"{source} holds no usable eye crop ({len(refused)} files refused{also})")
    return Dataset(crops, refused, left_out)


def _load(source: Path, make: Callable[[str, bytes], C]) -> tuple[list[C], list[Refusal], LeftOut]:
    crops: list[C] = []
    refused: list[Refusal] = []
    left_out = LeftOut()
    for name, read in _files(source, left_out):
        try:
            data = read()
            crop = make(name, data)
            decode(data)
        except EyestateError as error:
            refused.append(Refusal(name, error.message))
        else:
            crops.append(crop)
    return crops, refused, left_out


def _files(source: Path, left_out: LeftOut) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and reader of each image file in a zip archive or a folder, in the order of the names.

    A reader stops one byte past what ``decode`` accepts, so that no file is read into memory whole to be refused.
    """
    if source.is_dir():
        names = sorted(name for name, _ in walk(source, is_image, left_out))
        for name in tqdm(names, desc=f"reading {source.name}", unit="crop"):
            yield name, partial(_read, (source / name).open, "rb")
    elif zipfile.is_zipfile(source):
        with _open_archive(source) as archive:
            members = (each for each in zip_members(archive) if left_out.unless_image(each[0]))
            for name, member in tqdm(sorted(members, key=itemgetter(0)), desc=f"reading {source.name}", unit="crop"):
                yield name, partial(_read, archive.open, member)
    elif source.exists():
        raise DataError(f"{source} is neither a folder nor a zip archive")
    else:
        raise DataError(f"{source} does not exist; set EYESTATE_DATA to the folder that holds the data sets")


def _open_archive(source: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(source)
    except Exception as error:  # zipfile meets a damaged directory with whatever it trips over
        raise DataError(f"{source} is a damaged zip archive: {error}") from None


def _read(open_file: Callable[[Any], IO[bytes]], argument: Any) -> bytes:
    try:
        with open_file(argument) as file:
            return file.read(MAX_BYTES + 1)
    except Exception as error:  # and so it meets a damaged, encrypted or exotically compressed member
        raise UnreadableFileError(f"unreadable: {error}") from None


def _labelled_crop(name: str, data: bytes) -> LabelledCrop:
    path = PurePosixPath(name)
    folder_label = next(
        (_LABEL_FOLDERS[p] for p in map(str.lower, reversed(path.parts[:-1])) if p in _LABEL_FOLDERS), None
    )
    match = _MRL_NAME.fullmatch(path.name)
    if match is None:
        if folder_label is None:
            raise DataError("no label: neither the file name nor a folder says open or closed")
        return LabelledCrop(name, data, folder_label, collection=MRL)
    subject, *codes = match.groups()
    gender, glasses, label, reflections, light, sensor = map(int, codes)
    if folder_label not in (None, label):
        raise DataError("the file name and the folder contradict each other on open or closed")
    return LabelledCrop(name, data, label, subject, gender, glasses, reflections, light, sensor, collection=MRL)


def _crop_of_a_person(name: str, data: bytes) -> LabelledCrop:
    match = _PERSON_NAME.fullmatch(name)
    if match is None:
        raise DataError("the name is not of the form COLLECTION/open|closed/PERSON_NUMBER")
    collection, label, person = match.groups()
    subject = f"{collection}/{person}"
    return LabelledCrop(name, data, _LABEL_FOLDERS[label], subject, collection=collection)


def _drop_contradictions(crops: Sequence[LabelledCrop]) -> tuple[list[LabelledCrop], list[Refusal]]:
    """Leave out every image that is in both classes (MRL has such groups, most of them of one subject)."""
    labels: defaultdict[bytes, set[int]] = defaultdict(set)
    digests = [hashlib.sha256(crop.data).digest() for crop in crops]
    for crop, digest in zip(crops, digests, strict=True):
        labels[digest].add(crop.label)
    kept = [crop for crop, digest in zip(crops, digests, strict=True) if len(labels[digest]) == 1]
    clashes = [
        Refusal(crop.name, "the same image is labelled both open and closed")
        for crop, digest in zip(crops, digests, strict=True)
        if len(labels[digest]) > 1
    ]
    return kept, clashes


def count(crops: Iterable[Crop], attribute: str) -> Counter[tuple[str, int]]:
    """Crops by (value of the attribute, label), values as words."""
    words = ATTRIBUTES.get(attribute, {})
    return Counter(
        (str(words.get(value := getattr(crop, attribute), value)), crop.label)
        for crop in crops
        if crop.label is not None
    )


def values(crops: Iterable[Crop], attribute: str) -> list[str]:
    """The words that ``count`` finds, in the order of MRL's codes."""
    words = ATTRIBUTES.get(attribute, {})
    return [str(words.get(value, value)) for value in sorted({getattr(crop, attribute) for crop in crops})]
