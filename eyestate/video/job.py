"""From one video to everything that is written about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eyestate.errors import VideoError
from eyestate.files import LeftOut, walk
from eyestate.mtcnn import FaceDetector
from eyestate.scorer import Scorer
from eyestate.temporal import CLOSURE_LIMIT
from eyestate.video.annotation import annotate
from eyestate.video.plot import write_plot
from eyestate.video.reading import SUFFIXES, is_live
from eyestate.video.recording import MANIFEST, Manifest, Shown, locked, read, record
from eyestate.video.results import Course, courses, timeline, write

Describe = Callable[[str], Shown]  # names what is being done, for a progress bar


@dataclass(frozen=True, slots=True)
class Job:
    """What is done with each video."""

    scorer: Scorer
    detector: FaceDetector
    closure_limit: float = CLOSURE_LIMIT
    annotated: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a video."""

    manifest: Manifest
    people: list[Course]


def videos(source: str, output: Path) -> list[tuple[str, Path]]:
    """The videos that a source names, and the folder for each: of a folder's videos, folders named like them.

    Raises:
        VideoError: a folder holds none.
    """
    if is_live(source) or not Path(source).is_dir():
        return [(source, output)]
    found = [name for name, _ in walk(Path(source), lambda name: Path(name).suffix.lower() in SUFFIXES, LeftOut())]
    if not found:
        raise VideoError(f"no video files ({', '.join(sorted(SUFFIXES))}) in {source}")
    return [(str(Path(source) / name), output / name) for name in found]


def run(source: str, folder: Path, job: Job, describe: Describe) -> Outcome:
    """Score a video, as far as an earlier run has not, and write its results.

    A stream that is interrupted has ended; a file that is interrupted goes on with the next run.

    Raises:
        VideoError: the video cannot be read.
        JobError: the folder belongs to another video or model, or cannot be written to.
        KeyboardInterrupt: a file was interrupted.
    """
    with locked(folder):
        try:
            manifest = record(source, folder, job.scorer, job.detector, describe("scoring"))
        except KeyboardInterrupt:
            if not is_live(source) or not (folder / MANIFEST).exists():
                raise
            manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        scores = read(folder, manifest)
        people = courses(scores, job.closure_limit)
        table = timeline(scores, people)
        write(folder, table, people, manifest)
        write_plot(folder / "plot.png", people)
        if job.annotated:
            annotate(source, folder, table, describe("annotating"))
        return Outcome(manifest, people)
