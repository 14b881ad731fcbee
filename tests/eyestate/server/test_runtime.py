"""Where the images of a request are decoded, and when that ends."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.errors import DeviceError
from eyestate.images import decode
from eyestate.server import processes, runtime
from eyestate.server.runtime import Decoded, Runtime
from tests.images import encoded

CROP = encoded(Image.new("L", (24, 24), 90), "JPEG")


@pytest.fixture
def decoded_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads that decoded an image, in order."""
    names: list[str] = []

    def noting(data: bytes, max_pixels: int) -> Pixels:
        pixels = decode(data, max_pixels)
        names.append(threading.current_thread().name)
        return pixels

    monkeypatch.setattr(runtime, "decode", noting)
    return names


def made(images: Sequence[bytes | None], look: Callable[[Any], object] = lambda _: None) -> Decoded:
    nothing = cast("Any", SimpleNamespace(side=32, look=look, decoded=lambda *_: None))
    service = Runtime(
        bundle=nothing, scorer=nothing, batcher=nothing, monitor=nothing, responses=nothing, face_pool=None
    )
    return asyncio.run(service.decode({"type": "http"}, images))


def test_small_crops_are_decoded_on_the_loop(decoded_by: list[str]) -> None:
    assert len(made([CROP] * 5).crops) == 5
    assert decoded_by == ["MainThread"] * 5


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "JPEG"])
def test_many_pixels_in_few_bytes_are_not(decoded_by: list[str], kind: str) -> None:
    few_bytes = encoded(Image.new("L", (512, 512)), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert len(few_bytes) < runtime.INLINE_BYTES
    assert not made([few_bytes]).failures
    assert "MainThread" not in decoded_by


def test_large_crops_are_looked_at_where_they_are_decoded() -> None:
    """For the figures of drift they are shrunk, which takes 20 ms for the largest."""
    names = []
    made([encoded(Image.new("L", (512, 512)), "JPEG")], lambda _: names.append(threading.current_thread().name))
    assert names[-1] != "MainThread"


def test_nor_are_many_small_ones_of_few_bytes(decoded_by: list[str]) -> None:
    tiny = encoded(Image.new("L", (64, 64)), "PNG")
    assert len(tiny) * 40 < runtime.INLINE_BYTES
    assert len(made([tiny] * 40).crops) == 40
    assert decoded_by.count("MainThread") * 64 * 64 <= runtime._INLINE_PIXELS


def test_nor_are_very_many_that_are_no_images() -> None:
    """A form of 57 KB has a thousand of them, which took a tenth of a second."""
    names = []
    made([b"x"] * 1_000, lambda _: names.append(threading.current_thread().name))
    assert names != ["MainThread"]


def test_an_image_that_is_too_large_in_few_bytes_is_refused() -> None:
    (failure,) = made([encoded(Image.new("L", (4_097, 8)), "PNG")]).failures.values()
    assert failure.code == "image_too_large"


def test_decoding_stops_when_the_request_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = 0

    def slow(data: bytes, max_pixels: int) -> Pixels:
        nonlocal begun
        begun += 1
        time.sleep(0.05)
        return np.zeros((24, 24), np.uint8)

    async def leave() -> None:
        nothing = cast("Any", SimpleNamespace(side=32, look=lambda _: None, decoded=lambda *_: None))
        service = Runtime(
            bundle=nothing, scorer=nothing, batcher=nothing, monitor=nothing, responses=nothing, face_pool=None
        )
        task = asyncio.ensure_future(service.decode({"type": "http"}, [bytes(1_000)] * 1_000))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    monkeypatch.setattr(runtime, "decode", slow)
    asyncio.run(leave())  # waits for the thread, which would take 50 s
    assert begun < 100


def test_a_worker_whose_gpu_has_failed_answers_and_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The supervisor then starts another, which uses the CPU if the GPU is gone."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(processes, "_ANSWER_SECONDS", 0.01)

    async def submit(_: object) -> None:
        raise DeviceError("the GPU has failed (unspecified launch failure)")

    async def score() -> None:
        nothing = cast("Any", SimpleNamespace(submit=submit))
        service = Runtime(
            bundle=nothing, scorer=nothing, batcher=nothing, monitor=nothing, responses=nothing, face_pool=None
        )
        with pytest.raises(DeviceError):
            await service.score({"type": "http"}, Decoded(np.zeros((1, 8, 8), np.uint8), {}, None))
        assert not ended, "the answer is still to be sent"
        await asyncio.sleep(0.05)

    asyncio.run(score())
    assert ended == [1]
    assert caplog.messages == ["the worker ends: the GPU has failed (unspecified launch failure)"]
