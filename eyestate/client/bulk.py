"""Many images in requests that the service accepts, none of them refused because of its neighbours."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Final, NamedTuple

import numpy as np

from eyestate import limits
from eyestate.client.attempts import may_lie_in_the_request
from eyestate.client.messages import ANSWER, Http, Images, batch_request, table_of
from eyestate.errors import ImageTooLargeError, ServiceError
from eyestate.extras import extra
from eyestate.images import MAX_BYTES, MAX_SIDE, header_pixels

with extra("client"):
    import httpx
    import pyarrow as pa

_TRIES: Final = 2  # of a request before its images are sent one by one
_HOPELESS: Final = 8  # images in succession that the service fails at


class Room:
    """What a request still has room for."""

    def __init__(self, images: int = limits.REQUEST_IMAGES) -> None:
        self._images, self._bytes, self._pixels = images, limits.REQUEST_BYTES, limits.MAX_PIXELS
        self._empty = True

    def take(self, image: bytes) -> bool:
        """Whether an image fits, which then has its place; a first one always does."""
        left = self._images - 1, self._bytes - len(image), self._pixels - header_pixels(image)
        if min(left) < 0 and not self._empty:
            return False
        self._images, self._bytes, self._pixels = left
        self._empty = False
        return True


class Failures:
    """The images in succession that the service failed at, to tell a faulty service from a faulty image."""

    def __init__(self) -> None:
        self._count = 0

    def end(self) -> None:
        """Note a success."""
        self._count = 0

    def add(self, error: ServiceError) -> None:
        """Note a failure at a single image.

        Raises:
            ServiceError: that one, if there have been too many.
        """
        self._count += error.status != ImageTooLargeError.status  # a limit is no fault
        if self._count >= _HOPELESS:
            raise error


class Sending(NamedTuple):
    """A request to send, and how often at most if the failure may lie in it."""

    request: httpx.Request
    tries: int | None


def pieces(images: Images) -> list[Images]:
    """The images in order, divided by what fits into a request; at least one piece."""
    if isinstance(images, np.ndarray):
        size = max(1, images[:1].nbytes)
        step = max(1, min(limits.REQUEST_IMAGES, limits.REQUEST_BYTES // size))
        return [images[start : start + step] for start in range(0, max(1, len(images)), step)]
    starts, room = [0], Room()
    for place, image in enumerate(images):
        if not room.take(image):
            starts.append(place)
            room = Room()
            room.take(image)
    return [images[start:stop] for start, stop in zip(starts, [*starts[1:], len(images)], strict=True)]


def scored(
    http: Http, images: Images, failures: Failures
) -> Generator[Sending, httpx.Response | ServiceError, pa.Table]:
    """Score images that fit into one request.

    Yields what is to be sent and is sent the answer or the error. An image that was refused for the sake of its
    neighbours, or whose request failed as a whole, is sent again alone.

    Returns:
        A table of ``ANSWER``; images that the service fails at even when alone have its error.

    Raises:
        ServiceError: the failure has nothing to do with the images.
    """
    several = len(images) > 1
    answer = yield Sending(batch_request(http, images), _TRIES if several else None)
    if not isinstance(answer, ServiceError):
        failures.end()
        table = table_of(answer, len(images))
        again = [] if isinstance(images, np.ndarray) or not several else _crowded_out(table, images)
    elif not may_lie_in_the_request(answer):
        raise answer
    elif several:
        table, again = ANSWER.empty_table(), list(range(len(images)))
    else:
        failures.add(answer)
        return pa.Table.from_pylist([{"error": answer.code, "message": answer.message}], ANSWER)
    alone = []
    for place in again:
        alone.append((yield from scored(http, images[place : place + 1], failures)))  # noqa: PERF401  # it yields
    places = np.arange(len(images))
    places[again] = table.num_rows + np.arange(len(again))
    return joined([table, *alone]).take(places)


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of several tables of ``ANSWER``, with the metadata that tell the model.

    Raises:
        ServiceError: they were scored by different models.
    """
    told = [table.schema.metadata for table in tables if table.schema.metadata]
    if any(metadata != told[0] for metadata in told):
        raise ServiceError(
            "the service changed its model while it scored: send the images again", status=503, code="model_changed"
        )
    return pa.concat_tables([table.replace_schema_metadata(told[0] if told else None) for table in tables])


def _crowded_out(table: pa.Table, images: Sequence[bytes]) -> list[int]:
    """The places of images that were too large for the request, but are not by themselves."""
    refused = [place for place, code in enumerate(table["error"].to_pylist()) if code == ImageTooLargeError.code]
    return [
        place for place in refused if len(images[place]) <= MAX_BYTES and header_pixels(images[place]) <= MAX_SIDE**2
    ]
