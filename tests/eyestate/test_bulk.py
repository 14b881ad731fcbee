"""Requests of many images: each within the service's limits, no image lost for the sake of its neighbours."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from eyestate import limits
from eyestate.batch.job import run
from eyestate.client import AsyncClient, Client, bulk
from eyestate.client.bulk import Room, pieces
from eyestate.errors import ServiceError
from eyestate.images import header_pixels
from eyestate.schema import ErrorDetail, Verdict
from eyestate.server import packed
from tests.bundles import write_bundle
from tests.eyestate.batch.crops import png, write_folder
from tests.eyestate.batch.test_job import Told, job
from tests.faulty_service import FaultyService, faulty_service

MAX_PIXELS = 4_096
SIDES = st.integers(8, 64)  # 64 squared are all the pixels of a request
IMAGES = st.lists(st.tuples(SIDES, SIDES, st.sampled_from(["PNG", "JPEG", "WEBP", "BMP"])), min_size=1, max_size=16)


@cache
def image(width: int, height: int, kind: str, brightness: int = 200) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width), brightness, np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyService]:
    """A service that takes few pixels in a request."""
    folder = tmp_path_factory.mktemp("narrow")
    with faulty_service(write_bundle(folder), folder / "service.log", max_pixels=MAX_PIXELS) as service:
        yield service


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_header_pixels(kind: str) -> None:
    assert header_pixels(image(40, 25, kind)) == 1_000
    assert header_pixels(image(40, 25, kind)[:10]) == 0


@given(data=st.data())
def test_pieces_are_within_the_limits_and_in_order(data: st.DataObject) -> None:
    images = [image(*each) for each in data.draw(IMAGES)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "REQUEST_BYTES", data.draw(st.integers(1, 20_000)))
        patch.setattr(limits, "MAX_PIXELS", data.draw(st.integers(1, 20_000)))
        found = pieces(images)
        assert [each for piece in found for each in piece] == images
        for piece in found:
            if len(piece) > 1:
                assert sum(map(len, piece)) <= limits.REQUEST_BYTES
                assert sum(map(header_pixels, piece)) <= limits.MAX_PIXELS


@given(count=st.integers(0, 50), side=st.integers(1, 9), size=st.integers(1, 2_000))
def test_arrays_are_cut_by_bytes(count: int, side: int, size: int) -> None:
    crops = np.arange(count * side * side, dtype=np.uint8).reshape(count, side, side)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "REQUEST_BYTES", size)
        found = pieces(crops)
    np.testing.assert_array_equal(np.concatenate(found), crops)
    assert all(len(piece) <= 1 or piece.nbytes <= size for piece in found if isinstance(piece, np.ndarray))


def test_number_of_images() -> None:
    assert limits.REQUEST_IMAGES == packed.MAX_CROPS
    assert [len(piece) for piece in pieces([b""] * (packed.MAX_CROPS + 1))] == [packed.MAX_CROPS, 1]
    room = Room(2)
    assert [room.take(b"") for _ in range(3)] == [True, True, False]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(images=IMAGES, known=st.booleans())
def test_any_mix_of_images_that_are_each_within_the_limits_is_scored(
    narrow: FaultyService, images: list[tuple[int, int, str]], known: bool
) -> None:
    """Also where the client does not know the limit, or cannot read a header."""
    with pytest.MonkeyPatch.context() as patch:
        if known:
            patch.setattr(limits, "MAX_PIXELS", MAX_PIXELS)
        else:
            patch.setattr(bulk, "header_pixels", lambda _: 0)
        narrow.order()
        with Client(narrow.url) as client:
            verdicts = client.score_batch([image(*each) for each in images])
    assert all(isinstance(verdict, Verdict) and verdict.state == "open" for verdict in verdicts)
    assert len(verdicts) == len(images)


def test_job_of_images_that_together_are_too_large(narrow: FaultyService, tmp_path: Path) -> None:
    images = {f"{place:03d}.png": image(64, 64, "PNG", place) for place in range(50)}
    manifest = run(job(narrow, tmp_path / "out", write_folder(tmp_path / "in", images)), Told())
    assert (manifest.totals.failed, manifest.totals.postponed, manifest.complete) == (0, 0, True)
    scores = pq.read_table(tmp_path / "out")["score"].to_pylist()
    np.testing.assert_allclose(scores, np.arange(50) / 255, atol=1e-3)


def test_large_images_of_all_limits(service: FaultyService) -> None:
    with Client(service.url) as client:
        verdicts = client.score_batch([image(4096, 4096, "JPEG")] * 5 + [image(5000, 8, "PNG"), png(0)])
    assert [v.state if isinstance(v, Verdict) else v.code for v in verdicts] == [
        *["open"] * 5,
        "image_too_large",
        "closed",
    ]


def test_image_that_is_too_large_is_not_sent_again(service: FaultyService) -> None:
    with Client(service.url) as client:
        client.score_batch([image(5000, 4000, "PNG"), png(0)])
    assert service.seen()["posts"] == 1


class TestRequestsThatFail:
    @pytest.mark.parametrize(
        "fault", [{"status": 413}, {"status": 500}, {"status": 504}, {"cut": True}, {"status": 408}]
    )
    def test_images_of_a_request_that_fails_are_sent_alone(
        self, service: FaultyService, fault: dict[str, object]
    ) -> None:
        service.order(then={"over": 2_000, **fault})
        with Client(service.url, patience=5) as client:
            verdicts = client.score_batch([png(brightness) for brightness in range(0, 250, 10)])
        assert [v.score for v in verdicts if isinstance(v, Verdict)] == pytest.approx(
            [brightness / 255 for brightness in range(0, 250, 10)], abs=1e-3
        )

    def test_no_answer_in_time(self, service: FaultyService) -> None:
        service.order(then={"holding": "poison", "delay": 2})
        with Client(service.url, timeout=0.5, patience=0.5) as client:
            verdicts = client.score_batch([png(0), png(1) + b"poison", png(2)])
        assert [getattr(verdict, "code", None) for verdict in verdicts] == [None, "no_answer", None]

    def test_image_that_fails_alone_has_the_error(self, service: FaultyService) -> None:
        async def verdicts() -> list[Verdict | ErrorDetail]:
            async with AsyncClient(service.url) as client:
                return await client.score_batch([png(0), png(1) + b"poison", png(2)])

        service.order(then={"holding": "poison", "status": 500})
        assert [getattr(verdict, "code", None) for verdict in asyncio.run(verdicts())] == [None, "ordered", None]

    def test_service_that_fails_at_everything(self, service: FaultyService) -> None:
        service.order(then={"status": 500})
        with Client(service.url) as client, pytest.raises(ServiceError, match="500"):
            client.score_batch([png(place) for place in range(200)])
        assert service.seen()["posts"] == 1 + 8

    def test_failure_that_no_smaller_request_avoids(self, service: FaultyService) -> None:
        service.order(then={"status": 401})
        with Client(service.url) as client, pytest.raises(ServiceError, match="401"):
            client.score_batch([png(0), png(1)])
        assert service.seen()["posts"] == 1

    def test_crops_that_are_all_too_large(self, service: FaultyService) -> None:
        with Client(service.url) as client, pytest.raises(ServiceError, match="image_too_large"):
            client.score_batch(np.zeros((3, 8, 5000), np.uint8))
        assert service.seen()["posts"] == 1
