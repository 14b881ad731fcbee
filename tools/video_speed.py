"""What following one face in a video of 1280×720 costs.

``python -m tools.video_speed`` writes ``reports/temporal/video.md`` and ``.json``.

A portrait moves over a grey ground. The same frames are read, searched or followed, and scored by the
default model, as ``eyestate video`` does it.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import av
import click
import numpy as np
from PIL import Image

import eyestate
from eyestate.bundle import load_model
from eyestate.mtcnn import FaceDetector
from eyestate.scorer import Scorer
from eyestate.video.reading import opened
from eyestate.video.recording import cropped
from eyestate.video.tracking import SEARCH_SECONDS, Tracker
from tools.harness.report import conditions, describe_conditions, table, write_report

REPORTS: Final = Path("reports") / "temporal"
FACE: Final = Path(__file__).parents[1] / "docs" / "images" / "face.jpg"
RATE: Final = 30
BATCH: Final = 32  # frames


class Cost(NamedTuple):
    """Of a frame: milliseconds of the processor, in all threads together, and of the clock."""

    processor: float
    clock: float


def write_clip(path: Path, seconds: int) -> None:
    """A face of about 300 pixels that sways, at 30 frames/s."""
    face = Image.open(FACE).convert("RGB").resize((640, 640))
    with av.open(path, "w") as output:
        stream = output.add_stream("libx264", rate=RATE, options={"preset": "fast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(seconds * RATE):
            canvas = Image.new("RGB", (1280, 720), (110, 110, 110))
            angle = number / RATE
            canvas.paste(face, (round(320 + 200 * math.sin(angle)), round(40 + 30 * math.sin(2 * angle))))
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(canvas))))
        output.mux(stream.encode())


def measure(clip: Path, scorer: Scorer, detector: FaceDetector, search_seconds: float) -> Cost:
    """Decode, find or follow, cut and score every frame."""
    tracker = Tracker(detector, search_seconds=search_seconds)
    crops, frames = [], 0
    used, began = time.process_time(), time.perf_counter()
    with opened(str(clip)) as video:
        for at, frame in video.frames():
            frames += 1
            for person in tracker.update(at, frame):
                crops += cropped(frame, person)[2]
            if frames % BATCH == 0:
                scorer.score(crops)
                crops.clear()
    scorer.score(crops)
    return Cost(1000 * (time.process_time() - used) / frames, 1000 * (time.perf_counter() - began) / frames)


def report(costs: dict[str, Cost], about: dict[str, Any]) -> str:
    """The table, with how it came about."""
    rows = [
        [name, f"{cost.processor:.1f}", f"{2000 / cost.processor:.0f}", f"{cost.clock:.1f}"]
        for name, cost in costs.items()
    ]
    head = ["Faces are", "Processor, ms a frame", "Frames/s that two cores have time for", "Clock, ms a frame"]
    return (
        "# One face in a video of 1280×720\n\n"
        f"H.264 at {RATE} frames/s. Time of the processor is that of all threads together; two cores keep up with "
        f"{RATE} frames/s as long as it stays below {2000 / RATE:.0f} ms a frame.\n\n"
        f"{table(head, rows)}\n`python -m tools.video_speed`. {describe_conditions(about)}\n"
    )


@click.command()
@click.option("--seconds", default=20, show_default=True, help="Length of the video.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), default=REPORTS, show_default=True)
def main(seconds: int, output: Path) -> None:
    """Measure and write the report."""
    scorer, detector = eyestate.load(), FaceDetector()
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip, seconds)
        costs = {
            f"searched for every {SEARCH_SECONDS:g} s and followed": measure(clip, scorer, detector, SEARCH_SECONDS),
            "searched for in each frame": measure(clip, scorer, detector, 0),
        }
    about = conditions(load_model(), detector, seconds=seconds)
    rows = [{"faces": name, **cost._asdict()} for name, cost in costs.items()]
    write_report(output, "video", {"about": about, "rows": rows}, report(costs, about))


if __name__ == "__main__":
    main()
