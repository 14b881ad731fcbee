"""A video to the scores of everybody's eyes in each frame: Parquet parts, and a manifest of those that are complete.

A part is written before the manifest names it, and both are replaced whole, so that a job killed at any moment goes on
after its last part.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from eyestate.arrays import Pixels
from eyestate.atomic import PREFIX, atomic_writer, write_atomically
from eyestate.errors import InputChangedError, ModelChangedError, OutputError, VideoError
from eyestate.extras import extra
from eyestate.faces import crop_side, cut
from eyestate.mtcnn import Box, Face, FaceDetector
from eyestate.schema import LoadedModel
from eyestate.scorer import Scorer
from eyestate.video.reading import Video, is_live, opened
from eyestate.video.tracking import Person, Tracker

with extra("video"):
    import pyarrow as pa
    import pyarrow.parquet as pq

Shown = Callable[[float, float], object]  # seconds of video that are done, and in all; 0 if unknown

PART_SECONDS: Final = 30.0  # of video in a part
_BATCH_FRAMES: Final = 32  # whose crops are scored together

MANIFEST: Final = "_manifest.json"
SCHEMA: Final = pa.schema(
    [
        pa.field("time", pa.float64(), nullable=False),
        pa.field("person", pa.int32(), nullable=False),
        *(pa.field(f"face_{edge}", pa.float32(), nullable=False) for edge in Box._fields),
        *(pa.field(f"{eye}_{axis}", pa.float32(), nullable=False) for eye in ("left", "right") for axis in "xy"),
        pa.field("eye_side", pa.int32(), nullable=False),
        pa.field("left", pa.float32()),
        pa.field("right", pa.float32()),
    ]
)


class Source(BaseModel):
    """What identifies a video: where it was, and its size and modification time if it is a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    size: int | None = None
    modified: int | None = None

    @classmethod
    def of(cls, source: str) -> Source:
        """Raises:
        VideoError: there is no such file.
        """
        if is_live(source):
            return cls(name=source)
        try:
            stat = Path(source).stat()
        except OSError as error:
            raise VideoError(f"{source} cannot be read as a video: {error.strerror}") from None
        return cls(name=Path(source).name, size=stat.st_size, modified=stat.st_mtime_ns)


class Manifest(BaseModel):
    """``_manifest.json``: how far a video has been scored.

    Attributes:
        until: time of the last frame in the parts.
        frames, bad: frames that were decoded, and that could not be.
        people: who was followed at that time: number, face and time when last seen.
        count: people so far.
        complete: whether the whole video is in the parts.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    source: Source
    model: LoadedModel
    parts: list[str] = []
    until: float = -1.0
    frames: int = 0
    bad: int = 0
    people: list[tuple[int, Face, float]] = []
    count: int = 0
    complete: bool = False


class _Seen(NamedTuple):
    """A person in a frame, with the crops of the eyes that are in it, right before left."""

    time: float
    person: Person
    has_right: bool
    has_left: bool
    crops: list[Pixels]


def record(source: str, folder: Path, scorer: Scorer, detector: FaceDetector, shown: Shown) -> Manifest:
    """Score what an earlier run has not.

    Args:
        source: a file, or the address of a stream.
        folder: where the parts go.
        scorer: scores the eyes.
        detector: finds them.
        shown: called as the work goes on.

    Raises:
        VideoError: the video cannot be read.
        JobError: the folder belongs to another video or model, or cannot be written to.
    """
    card = scorer.manifest
    model = LoadedModel(name=card.name, version=card.version, sha256=card.sha256)
    manifest = _begun(folder, Manifest(source=Source.of(source), model=model))
    if manifest.complete:
        return manifest
    with opened(source) as video:
        tracker = Tracker(detector, [Person(*person) for person in manifest.people], manifest.count)
        _score(video, folder, manifest, scorer, tracker, shown=shown)
        if not manifest.frames:
            raise VideoError(f"{source}: no frame of it can be decoded")
    return manifest


def read(folder: Path, manifest: Manifest) -> pa.Table:
    """The rows of all parts, of ``SCHEMA``, in the order of time."""
    return pa.concat_tables([SCHEMA.empty_table(), *(pq.read_table(folder / name) for name in manifest.parts)])


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made if it is missing.

    Raises:
        OutputError: another run is using it, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for draft in folder.glob(f"{PREFIX}*"):
                draft.unlink(missing_ok=True)
            yield
    except BlockingIOError:
        raise OutputError(f"another run is writing to {folder}: wait for it, or choose another --output") from None
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from None


def _begun(folder: Path, new: Manifest) -> Manifest:
    """The manifest in a folder, or a new one."""
    path = folder / MANIFEST
    if not path.exists():
        return new
    try:
        begun = Manifest.model_validate_json(path.read_bytes())
    except ValidationError:
        raise OutputError(f"{path} is not a manifest that this version reads: choose another --output") from None
    if begun.source != new.source:
        raise InputChangedError(
            f"{folder} was begun with another video ({begun.source.name}, or it has changed): choose another --output"
        )
    if begun.model != new.model:
        raise ModelChangedError(
            f"{folder} was begun with the model {begun.model.name} {begun.model.version}: go on with that one, or "
            "choose another --output"
        )
    if begun.source.size is None:
        raise OutputError(f"{folder} holds an earlier recording of the stream: choose another --output")
    return begun


def _score(video: Video, folder: Path, manifest: Manifest, scorer: Scorer, tracker: Tracker, *, shown: Shown) -> None:
    tables: list[pa.Table] = []
    seen: list[_Seen] = []
    began, bad = manifest.until, manifest.bad

    def score() -> None:
        tables.append(_scored(seen, scorer))
        seen.clear()

    def save() -> None:
        score()
        name = f"part-{len(manifest.parts):06d}.parquet"
        with atomic_writer(folder / name, durable=True) as file:
            pq.write_table(pa.concat_tables(tables), file, compression="zstd")
        tables.clear()
        manifest.parts.append(name)
        manifest.people = [(person.number, person.face, person.seen) for person in tracker.people]
        manifest.count, manifest.bad = tracker.count, bad + video.bad
        write_atomically(folder / MANIFEST, manifest.model_dump_json(indent=2))

    try:
        for number, (time, frame) in enumerate(video.frames(after=manifest.until), 1):
            if manifest.frames and time - began >= PART_SECONDS:
                save()
                began = time
            people = [_Seen(time, person, *cropped(frame, person)) for person in tracker.update(time, frame)]
            manifest.until = time  # first: who interrupts in between loses the frame, and does not have it twice
            manifest.frames += 1
            seen += people
            if number % _BATCH_FRAMES == 0:
                score()
                shown(time, video.seconds)
    except KeyboardInterrupt:
        save()
        raise
    manifest.complete = True
    save()


def cropped(frame: Pixels, person: Person) -> tuple[bool, bool, list[Pixels]]:
    """Whether a person's right and left eye are in the frame, and the crops of those that are."""
    found = cut(frame, [person.face])
    (eyes,) = found.eyes
    return eyes.right is not None, eyes.left is not None, found.crops


def _scored(seen: list[_Seen], scorer: Scorer) -> pa.Table:
    scores = iter(scorer.score([crop for one in seen for crop in one.crops]).tolist())
    rows = []
    for one in seen:
        face = one.person.face
        right = next(scores) if one.has_right else None
        left = next(scores) if one.has_left else None
        place = (*face.box, *face.left_eye, *face.right_eye, crop_side(face))
        rows.append((one.time, one.person.number, *place, left, right))
    columns = list(zip(*rows, strict=True)) or [[] for _ in SCHEMA]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA
    )
