"""``python -m tools.benchmarks.face_detectors``: MTCNN, as it ships, and YuNet on the same photos.

YuNet runs in the implementation of its authors, libfacedetection, which has its weights compiled in (``pip install
yuface``). The photos are scikit-image's: a portrait in several sizes and conditions, pictures without a face, and the
200 patches of its subset of LFW, enlarged.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import click
import numpy as np
import skimage
from PIL import Image, ImageEnhance

from eyestate.arrays import Pixels
from eyestate.mtcnn import FaceDetector
from tools.harness.report import table

Detect = Callable[[Pixels], int]  # RGB, uint8 (height, width, 3), to the number of faces

SIZES: Final = (230, 512, 1_024, 2_048)  # pixels a side
TIMED: Final = (512, 2_048)
CONFIDENCE: Final = 0.5  # of YuNet, its default
PATCH: Final = 120  # pixels a side, of LFW's 25
EMPTY: Final = ("coffee", "chelsea", "rocket", "cell", "page")


def picture(name: str) -> Any:
    """One of scikit-image's pictures."""
    return getattr(skimage.data, name)()


def mtcnn() -> Detect:
    """The detector that ships."""
    detector = FaceDetector()
    return lambda photo: len(detector.detect(photo))


def yunet() -> Detect:
    """YuNet, by its authors.

    Raises:
        ClickException: it is not installed.
    """
    try:
        import yuface  # noqa: PLC0415  # not among the dependencies
    except ModuleNotFoundError:
        raise click.ClickException("YuNet is not installed: .venv/bin/uv pip install yuface") from None
    return lambda photo: len(yuface.detect(np.ascontiguousarray(photo[:, :, ::-1]), CONFIDENCE)[0])


def portraits() -> Iterator[Pixels]:
    """Photos with one face each."""
    portrait = Image.fromarray(picture("astronaut"))
    for side in SIZES:
        yield np.asarray(portrait.resize((side, side), Image.Resampling.BICUBIC))
    for degrees in (-30, -12, 12, 30):
        yield np.asarray(portrait.rotate(degrees, Image.Resampling.BICUBIC))
    yield np.asarray(portrait.convert("L").convert("RGB"))
    yield np.asarray(ImageEnhance.Brightness(portrait).enhance(0.3))


def patches() -> tuple[list[Pixels], list[Pixels]]:
    """LFW's patches with a face, and those without."""
    grey = (picture("lfw_subset") * 255).astype(np.uint8)
    large = [Image.fromarray(patch).resize((PATCH, PATCH), Image.Resampling.BICUBIC) for patch in grey]
    rgb = [np.asarray(patch.convert("RGB")) for patch in large]
    return rgb[:100], rgb[100:]


def empty() -> Iterator[Pixels]:
    """Pictures without a face."""
    for name in EMPTY:
        pixels = picture(name)
        yield np.asarray(Image.fromarray(pixels).convert("RGB"))


def milliseconds(detect: Detect, side: int, rounds: int = 15) -> float:
    """The median time for the portrait at a size."""
    portrait = Image.fromarray(picture("astronaut")).resize((side, side), Image.Resampling.BICUBIC)
    photo = np.asarray(portrait)
    detect(photo)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        detect(photo)
        times.append(time.perf_counter() - started)
    return 1_000 * statistics.median(times)


@click.command()
def main() -> None:
    """Compare the face detectors and print a table. Set OMP_NUM_THREADS=1 to give YuNet one thread, as MTCNN has."""
    faces, others = patches()
    rows = []
    for name, detect in (("MTCNN, as it ships", mtcnn()), ("YuNet (libfacedetection)", yunet())):
        found = [detect(photo) for photo in portraits()]
        rows.append(
            (
                name,
                f"{sum(count == 1 for count in found)} of {len(found)}",
                f"{sum(detect(patch) == 1 for patch in faces)} of {len(faces)}",
                sum(detect(photo) for photo in (*others, *empty())),
                *(f"{milliseconds(detect, side):.1f}" for side in TIMED),
            )
        )
    columns = ("", "Portraits, one face found", "LFW faces, one found", f"Faces in {100 + len(EMPTY)} pictures without")
    click.echo(table([*columns, *(f"ms, {side:,} px" for side in TIMED)], rows))


if __name__ == "__main__":
    main()
