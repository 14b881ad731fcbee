"""The requests that users send, with real or rendered crops, and the check of the responses."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import numpy as np

from eyestate.arrays import Pixels
from eyestate.batch.inputs import Reader, open_input
from eyestate.batch.parquet import Columns
from eyestate.errors import ImageError, InputError
from eyestate.images import decode, to_input
from eyestate.media_types import NPY, OCTET_STREAM
from loadtests.scenarios.plan import Kind
from tools.harness import crops
from training.data.synthetic import labelled

_SYNTHETIC: Final = 24
_MAX_IMAGES: Final = 2_000  # crops of an input; enough for variety
_BODIES: Final = 50  # prepared batches, sent cyclically


class Body(NamedTuple):
    """A request: path, body, headers, and the number of scores expected."""

    path: str
    data: bytes
    headers: Mapping[str, str]
    crops: int


def request_bodies(kind: Kind, source: str | None, batch: int) -> list[Body]:
    """The requests of one kind of user.

    Args:
        kind: of the user.
        source: a folder, a zip or any other input of ``eyestate batch``; None renders eyes.
        batch: crops per batch.

    Raises:
        InputError: there is no image in ``source``.
    """
    images = read(source) if source else synthetic_images()
    if kind == "single":
        return [Body("/v1/score", image, {"Content-Type": OCTET_STREAM}, 1) for image in images]
    make = _multipart if kind == "multipart" else _packed
    chosen = np.random.default_rng(0).integers(len(images), size=(_BODIES, batch))
    return [make([images[index] for index in row]) for row in chosen]


@cache
def synthetic_images() -> tuple[bytes, ...]:
    """Rendered eyes, alternately open and closed, as JPEG files in the size of a crop."""
    return tuple(crops.jpeg(to_input(pixels, crops.SIDE)) for pixels, _ in labelled(_SYNTHETIC, seed=0))


@cache
def read(source: str) -> tuple[bytes, ...]:
    """The first decodable images of an input.

    Raises:
        InputError: there are none.
    """
    first = next(open_input([source], Columns()).parts(_MAX_IMAGES))
    with closing(Reader()) as reader:
        images = tuple(
            row.image for row in reader.rows(first) if isinstance(row.image, bytes) and _decodable(row.image)
        )
    if not images:
        raise InputError(f"{source} holds no image that can be read")
    return images


def api_key(file: str | None, environment: Mapping[str, str]) -> str | None:
    """The key to send: ``EYESTATE_API_KEY``, or the first line of a file.

    Raises:
        InputError: the file cannot be read or is empty.
    """
    if key := environment.get("EYESTATE_API_KEY"):
        return key
    if file is None:
        return None
    try:
        lines = Path(file).read_text().split()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    if not lines:
        raise InputError(f"{file} holds no API key")
    return lines[0]


def retry_after(status: int | None, header: str | None) -> float | None:
    """Seconds to wait after a rejection; None if the response is no rejection or does not say."""
    return float(header) if status in (429, 503) and header and header.isdigit() else None


def response_error(body: Body, status: int | None, answer: bytes) -> str | None:
    """What is wrong with the response to a request, None if nothing is."""
    if status != 200:
        return f"status {status}: {answer[:100].decode(errors='replace')}"
    try:
        scores = _scores(body, answer)
    except (ValueError, AttributeError, TypeError) as error:
        return f"the response cannot be read: {type(error).__name__} {error}"
    if len(scores) != body.crops:
        return f"{len(scores)} scores for {body.crops} crops"
    # A failed crop has NaN in a packed response, which is in no range.
    if not all(0 <= score <= 1 for score in scores):
        return "a score is not between 0 and 1"
    return None


def _scores(body: Body, answer: bytes) -> Sequence[float]:
    if body.headers.get("Accept") == NPY:
        scores: list[float] = np.load(io.BytesIO(answer)).tolist()
        return scores
    content = json.loads(answer)
    return [result.get("score", math.nan) for result in content.get("results", [content])]


def _multipart(images: Sequence[bytes]) -> Body:
    files = [("images", (f"{number}.jpg", image, "image/jpeg")) for number, image in enumerate(images)]
    request = httpx.Request("POST", "http://encoder", files=files)
    return Body("/v1/score/batch", request.read(), {"Content-Type": request.headers["Content-Type"]}, len(images))


def _packed(images: Sequence[bytes]) -> Body:
    pixels: Pixels = np.stack([to_input(decode(image), crops.SIDE) for image in images])
    file = io.BytesIO()
    np.save(file, pixels)
    return Body("/v1/score/batch", file.getvalue(), {"Content-Type": NPY, "Accept": NPY}, len(images))


def _decodable(image: bytes) -> bool:
    try:
        decode(image)
    except ImageError:
        return False
    return True
