from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pytest

from eyestate.media_types import ARROW, JSON, NPY
from eyestate.server.packed import from_arrow, from_npy
from loadtests.bulk import Load, Mode, Point, pack, page, table_rows, unpack

SCORES = np.array([0.25, 0.5, 1.0], np.float32)
MODE = Mode("npy", "JSON", 256, 4)


def arrow_answer() -> bytes:
    batch = pa.record_batch({"score": pa.array(SCORES), "state": ["closed", "uncertain", "open"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    body: bytes = sink.getvalue().to_pybytes()
    return body


def npy_answer() -> bytes:
    file = io.BytesIO()
    np.save(file, SCORES)
    return file.getvalue()


@pytest.mark.parametrize(("content_type", "read"), [(NPY, from_npy), (ARROW, from_arrow)])
def test_packed_is_what_the_service_reads(content_type: str, read: object) -> None:
    assert callable(read)
    body, pixels = pack(content_type, 10, 24)
    assert pixels.shape == (10, 24, 24)
    assert np.array_equal(read(body), pixels)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, json.dumps({"results": [{"score": score} for score in SCORES.tolist()]}).encode()),
        (NPY, npy_answer()),
        (ARROW, arrow_answer()),
    ],
)
def test_unpacked(content_type: str, body: bytes) -> None:
    assert np.array_equal(unpack(content_type, body), SCORES)


def test_rows_are_medians_and_count_failures() -> None:
    points = [
        Point(MODE, Load(800, {"200": 8}, {}), 1000),
        Point(MODE, Load(900, {"200": 8, "429": 1}, {}), 1000),
        Point(MODE, Load(400, {"200": 8}, {"reset by the server": 2}), 1000),
    ]
    (row,) = table_rows(points)
    assert (row.crops_per_second, row.bare, row.share, row.failed) == (800, 1000, 0.8, 3)


@pytest.mark.parametrize(
    ("model", "single"), [("small", "| JPEG → JSON | – | 0.17 | – |"), ("final_best", "| **no** |")]
)
def test_page(model: str, single: str) -> None:
    points = [
        Point(MODE, Load(960, {"200": 8}, {}), 1000),
        Point(Mode("JPEG", "JSON", 1, 64), Load(170, {"200": 8}, {}), 1000),
    ]
    about = {
        "measured": "2026-01-01T00:00:00+00:00",
        "models": [],
        "cores": 2,
        "cpu": "CPU",
        "python": "3.11",
        "versions": {},
        "settings": {"model": model},
    }
    text = page(about, table_rows(points))
    assert "| npy → JSON | ≥ 0." in text
    assert "| 0.96 | yes |" in text
    assert single in text
