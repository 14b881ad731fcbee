"""``python -m loadtests.faces``: cost of finding faces and eyes in a photo, by its size and content."""

from __future__ import annotations

import io
import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import click
import numpy as np
from PIL import Image

from eyestate.faces import find
from eyestate.images import MAX_SIDE
from eyestate.mtcnn import FaceDetector
from tools.harness.report import REPORTS, conditions, describe_conditions, table, write_report
from tools.harness.servers import PROJECT

PORTRAIT: Final = PROJECT / "docs" / "images" / "face.jpg"
_SIDES: Final = (512, 1024, 2048, MAX_SIDE)
_CROWD_SIDE: Final = 2048


@dataclass(frozen=True, slots=True)
class Row:
    """Medians for one photo, in milliseconds of elapsed time and of CPU time."""

    photo: str
    faces: int
    milliseconds: float
    core_milliseconds: float
    of_it_decoding: float


def photos() -> Iterator[tuple[str, bytes]]:
    """JPEGs: a portrait in several sizes, a crowd, and noise, which yields the most candidates."""
    portrait = Image.open(PORTRAIT)
    for side in _SIDES:
        yield f"portrait, {side:,} × {side:,}", _jpeg(portrait.resize((side, side), Image.Resampling.BICUBIC))
    crowd = Image.new("RGB", (_CROWD_SIDE, _CROWD_SIDE))
    cell = _CROWD_SIDE // 8
    for place in range(64):
        crowd.paste(portrait.resize((cell, cell), Image.Resampling.BOX), (place % 8 * cell, place // 8 * cell))
    yield f"64 portraits, {_CROWD_SIDE:,} × {_CROWD_SIDE:,}", _jpeg(crowd)
    noise = np.random.default_rng(0).integers(0, 256, (MAX_SIDE, MAX_SIDE, 3), np.uint8)
    yield f"noise, {MAX_SIDE:,} × {MAX_SIDE:,}", _jpeg(Image.fromarray(noise))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True, help="Repetitions per photo.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=REPORTS, show_default=True)
def main(rounds: int, output: Path) -> None:
    """Measure the time per photo in one thread, and write faces.json and .md."""
    files = [*photos()]
    before = _peak()
    started = time.thread_time()
    detector = FaceDetector()
    loading = 1000 * (time.thread_time() - started)
    rows = [measure(detector, name, file, rounds) for name, file in files]
    memory = _peak() - before
    about = conditions(detector, rounds=rounds)
    text = table(
        ["Photo", "Faces", "Elapsed, ms", "CPU, ms", "of which decoding, ms"],
        [
            (
                row.photo,
                row.faces,
                f"{row.milliseconds:.0f}",
                f"{row.core_milliseconds:.0f}",
                f"{row.of_it_decoding:.0f}",
            )
            for row in rows
        ],
    )
    page = (
        "# Face detection\n\nMedians per photo in one thread, from the JPEG to the crops of the eyes; scoring the "
        f"crops comes on top.\n\n{text}\nLoading the detector takes {loading:.0f} ms of CPU time. Photos and detector "
        f"together raise the peak of the process by {memory:,.0f} MiB.\n\n`python -m loadtests.faces`. "
        f"{describe_conditions(about)}\n"
    )
    result = {"about": about, "loading_ms": loading, "memory_mib": memory, "rows": [*map(asdict, rows)]}
    write_report(output, "faces", result, page)
    click.echo(page)


def measure(detector: FaceDetector, name: str, photo: bytes, rounds: int) -> Row:
    """Process one photo repeatedly."""
    passed, spent, decoding = [], [], []
    for _ in range(rounds):
        started, thread_started = time.perf_counter(), time.thread_time()
        found = find(detector, photo)
        spent.append(time.thread_time() - thread_started)
        passed.append(time.perf_counter() - started)
        decoding.append(found.decoding / passed[-1] * spent[-1])
    milliseconds = (round(1000 * statistics.median(times), 1) for times in (passed, spent, decoding))
    return Row(name, len(found.faces), *milliseconds)


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
