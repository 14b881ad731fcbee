"""WebP by libwebp itself: what Pillow shows of a file, sooner and without stopping other threads."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import pytest
from PIL import Image

from eyestate.errors import CorruptImageError
from eyestate.images import decode, decode_rgb, pixels
from tests.images import encoded

RNG = np.random.default_rng(3)
RGB = Image.fromarray(RNG.integers(0, 256, (37, 53, 3), dtype=np.uint8))
RGBA = Image.fromarray(RNG.integers(0, 256, (37, 53, 4), dtype=np.uint8))
OPTIONS: list[Mapping[str, object]] = [{}, {"quality": 5}, {"lossless": True}, {"lossless": True, "exact": True}]


def animated(*frames: Image.Image, **options: object) -> bytes:
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_shows_what_pillow_shows(options: Mapping[str, object]) -> None:
    file = encoded(RGB, "WEBP", **options)
    with Image.open(io.BytesIO(file)) as image:
        assert np.array_equal(decode_rgb(file), np.asarray(image))
        assert np.array_equal(decode(file), np.asarray(image.convert("L")))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_is_transparent_is_as_with_pillow(options: Mapping[str, object]) -> None:
    file = encoded(RGBA, "WEBP", **options)
    with Image.open(io.BytesIO(file)) as image:
        white = Image.new("RGBA", image.size, "white")
        assert np.array_equal(decode_rgb(file), np.asarray(Image.alpha_composite(white, image).convert("RGB")))


def test_pillow_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It copies the pixels of the largest image while nothing else runs, for a tenth of a second."""
    files = [encoded(RGB, "WEBP"), encoded(RGBA, "WEBP"), animated(RGB, RGBA.convert("RGB"))]
    monkeypatch.setattr(Image, "open", None)
    assert all(decode(file).shape == (37, 53) for file in files)


def test_a_frame_that_is_smaller_than_its_canvas_lies_on_white() -> None:
    file = bytearray(animated(RGB, RGB.rotate(180)))
    canvas = file.index(b"VP8X") + 8
    file[canvas + 4 : canvas + 10] = (99).to_bytes(3, "little") + (79).to_bytes(3, "little")
    frame = file.index(b"ANMF") + 8
    file[frame : frame + 6] = (10).to_bytes(3, "little") + (20).to_bytes(3, "little")  # halves of left and top
    shown = decode_rgb(bytes(file))
    assert shown.shape == (80, 100, 3)
    assert np.array_equal(shown[40:77, 20:73], np.asarray(RGB))
    shown[40:77, 20:73] = 255
    assert (shown == 255).all()


@pytest.mark.parametrize(
    ("place", "behind", "value"),
    [(b"VP8X", 12, 11), (b"ANMF", 14, 250), (b"ANMF", 8, 200), (b"VP8L", 8, 0)],
    ids=["canvas", "width of the frame", "left of the frame", "header of the pixels"],
)
def test_headers_that_contradict_each_other(place: bytes, behind: int, value: int) -> None:
    file = bytearray(animated(RGB, RGB.rotate(180)))
    file[file.index(place) + behind] = value
    with pytest.raises(CorruptImageError):
        decode(bytes(file))


def test_what_is_transparent_is_laid_on_white_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """While Pillow does it no other thread runs, for a third of a second with the largest image."""
    sizes = []
    composite = Image.alpha_composite

    def noting(below: Image.Image, above: Image.Image) -> Image.Image:
        sizes.append(above.width * above.height)
        return composite(below, above)

    file = encoded(RGBA.resize((1_500, 700)), "PNG")
    whole = composite(Image.new("RGBA", (1_500, 700), "white"), RGBA.resize((1_500, 700))).convert("RGB")
    monkeypatch.setattr(Image, "alpha_composite", noting)
    assert np.array_equal(decode_rgb(file), np.asarray(whole))
    assert max(sizes) <= pixels._STRIP
    assert sum(sizes) == 1_500 * 700
