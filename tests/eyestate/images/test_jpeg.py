"""JPEG: what is damaged is refused, what a browser shows is decoded, and what surrounds the image costs nothing."""

from __future__ import annotations

import io
import re
import struct
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from eyestate.errors import CorruptImageError, UnsupportedImageError
from eyestate.images import decode, decode_rgb, markers
from eyestate.images.limits import MAX_SEGMENTS
from tests.images import (
    ARITHMETIC_JPEG,
    LOSSLESS_JPEG,
    TWELVE_BIT_JPEG,
    colours,
    encoded,
    orientation,
    rescanned_jpeg,
    segment,
    ycck_jpeg,
)

SCAN, END = b"\xff\xda", b"\xff\xd9"


def picture(side: int = 96) -> Image.Image:
    """Something like a photo of an eye: smooth, with edges and grain, in colour."""
    y, x = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j]
    iris = 90 * np.exp(-(((x - 0.5) / 0.3) ** 2) - ((y - 0.5) / 0.15) ** 2) * np.cos(20 * (x - 0.5))
    grey = 120 + 60 * x - 40 * y + iris + np.random.default_rng(5).normal(0, 6, (side, side))
    return Image.fromarray(np.stack([grey, grey * 0.9, grey * 0.8], axis=-1).clip(0, 255).astype(np.uint8))


KINDS: dict[str, bytes] = {
    "grey": encoded(picture().convert("L"), "JPEG", quality=90),
    "colour": encoded(picture(), "JPEG", quality=90),
    "small": encoded(picture(32).convert("L"), "JPEG", quality=90),
    "photo": encoded(picture(640), "JPEG", quality=85),
    "optimised": encoded(picture(), "JPEG", optimize=True),
    "progressive": encoded(picture(), "JPEG", progressive=True),
    "progressive photo": encoded(picture(640), "JPEG", progressive=True),
    "restart markers": encoded(picture(), "JPEG", restart_marker_rows=1),
    "EXIF": encoded(picture(), "JPEG", exif=orientation(6)),
    "CMYK": encoded(picture().convert("CMYK"), "JPEG"),
}

DAMAGES: dict[str, Callable[[bytes, int], bytes]] = {
    "nothing left": lambda jpeg, scan: jpeg[:scan] + END,
    "2 % left": lambda jpeg, scan: jpeg[: scan + (len(jpeg) - scan) // 50] + END,
    "half left": lambda jpeg, scan: jpeg[: scan + (len(jpeg) - scan) // 2] + END,
    "9/10 left": lambda jpeg, scan: jpeg[: scan + (len(jpeg) - scan) * 9 // 10] + END,
    "half left, no end": lambda jpeg, scan: jpeg[: scan + (len(jpeg) - scan) // 2],
    "half left, then zeros": lambda jpeg, scan: jpeg[: (scan + len(jpeg)) // 2] + bytes((len(jpeg) - scan) // 2),
    "a quarter zeroed": lambda jpeg, scan: replaced(jpeg, scan, bytes((len(jpeg) - scan) // 4)),
    "32 bytes zeroed": lambda jpeg, scan: replaced(jpeg, scan, bytes(32)),
    "a quarter lost": lambda jpeg, scan: jpeg[: scan + 60] + jpeg[scan + 60 + (len(jpeg) - scan) // 4 :],
    "overwritten": lambda jpeg, scan: replaced(jpeg, scan, np.random.default_rng(3).bytes((len(jpeg) - scan) // 4)),
}


def replaced(jpeg: bytes, scan: int, content: bytes) -> bytes:
    return jpeg[: scan + 40] + content + jpeg[scan + 40 + len(content) :]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_scan_is_refused(kind: str, damage: str) -> None:
    jpeg = KINDS[kind]
    assert decode(jpeg).size
    scan = jpeg.rindex(SCAN)  # of a progressive one the last, which holds most
    with pytest.raises(CorruptImageError, match=r"damaged: \w"):
        decode(DAMAGES[damage](jpeg, scan + 2 + struct.unpack_from(">H", jpeg, scan + 2)[0]))


@pytest.mark.parametrize("kind", ["progressive", "progressive photo"])
def test_a_progressive_image_whose_last_scans_are_lost_is_refused(kind: str) -> None:
    jpeg = KINDS[kind]
    place = len(jpeg)
    while (place := jpeg.rfind(SCAN, 0, place)) > 0:
        with pytest.raises(CorruptImageError):
            decode(jpeg[:place] + END)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "stray", [b"\0", bytes(3), bytes(12), bytes(500), b"\xff", b"\xff" * 20, b"ab", b"1234567"], ids=repr
)
def test_stray_bytes_before_the_end_do_not_cost_the_score(kind: str, stray: bytes) -> None:
    jpeg = KINDS[kind]
    np.testing.assert_array_equal(decode(jpeg[:-2] + stray + END), decode(jpeg))


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_marker_that_is_missing_does_not_cost_the_score(kind: str) -> None:
    jpeg = KINDS[kind]
    np.testing.assert_array_equal(decode(jpeg[:-2]), decode(jpeg))


def test_flat_pictures_whose_code_is_all_zeros_are_decoded() -> None:
    for options in ({"optimize": True}, {"progressive": True}, {}):
        jpeg = encoded(Image.new("RGB", (512, 512), (90, 120, 150)), "JPEG", **options)
        assert decode(jpeg).std() < 1


def around(jpeg: bytes) -> dict[str, bytes]:
    """The same image with more in its file."""
    thumbnail = encoded(picture(64), "JPEG")
    video = np.random.default_rng(0).bytes(2**21)
    parts = [video[i : i + 65_000] for i in range(0, len(video), 65_000)]
    index = b"MPF\0XX*\0\x08\0\0\0\0\0"
    return {
        "video behind it": jpeg + b"MotionPhoto_Data" + video,
        "pictures behind it": jpeg + thumbnail + KINDS["progressive photo"],
        "maker's segments": jpeg[:2] + b"".join(segment(0xE4, part) for part in parts) + jpeg[2:],
        "a thumbnail in its EXIF": jpeg[:2] + segment(0xE1, b"Exif\0\0" + thumbnail) + jpeg[2:],
        "scans in a comment": jpeg[:2] + segment(0xFE, SCAN * 5_000) + jpeg[2:],
        "zeros behind it": jpeg + bytes(500),
        "bytes between segments": jpeg[:20] + b"\0\0strange" + jpeg[20:],
        "fill bytes": jpeg[:2] + b"\xff" * 9 + jpeg[2:],
        "a malformed multi-picture index": jpeg[:2] + segment(0xE2, index) + jpeg[2:],
        "an unknown Adobe transform": jpeg[:2] + segment(0xEE, b"Adobe\0d\0\0\0\0\x09") + jpeg[2:],
        "an unknown JFIF version": jpeg.replace(b"JFIF\0\1\1", b"JFIF\0\7\7"),
        "restart markers between segments": jpeg[:2] + b"\xff\xd0" + jpeg[2:],
    }


@pytest.mark.parametrize("kind", ["grey", "progressive", "photo"])
@pytest.mark.parametrize("name", around(b""))
def test_what_surrounds_the_image_does_not_change_it(kind: str, name: str) -> None:
    jpeg = KINDS[kind]
    np.testing.assert_array_equal(decode(around(jpeg)[name]), decode(jpeg))


def without(jpeg: bytes, *markers: int) -> bytes:
    """A JPEG without some of the segments before its first scan."""
    kept, place = bytearray(jpeg[:2]), 2
    while jpeg[place : place + 2] != SCAN:
        length = 2 + struct.unpack_from(">H", jpeg, place + 2)[0]
        kept += jpeg[place : place + length] if jpeg[place + 1] not in markers else b""
        place += length
    return bytes(kept + jpeg[place:])


def test_a_frame_of_motion_jpeg_has_no_huffman_tables() -> None:
    for jpeg in (KINDS["grey"], KINDS["colour"], KINDS["photo"]):
        for kinds in ((0xC4,), (0xC4, 0xE0)):
            np.testing.assert_array_equal(decode(without(jpeg, *kinds)), decode(jpeg))


def test_a_colour_component_that_has_no_scan_is_missed() -> None:
    jpeg = bytearray(KINDS["colour"])
    scan = jpeg.index(SCAN)
    grey = KINDS["grey"]
    jpeg[scan:] = grey[grey.index(SCAN) :]  # a scan of the luma alone
    with pytest.raises(CorruptImageError, match="scans are missing"):
        decode(bytes(jpeg))


@pytest.mark.parametrize("jpeg", [KINDS["CMYK"], ycck_jpeg()], ids=["CMYK", "YCCK"])
def test_four_colours_are_those_of_pillow(jpeg: bytes) -> None:
    expected = Image.open(io.BytesIO(jpeg)).convert("RGB")
    np.testing.assert_array_equal(decode_rgb(jpeg), np.asarray(expected))


def test_unusual_subsampling() -> None:
    jpeg = bytearray(encoded(Image.new("RGB", (24, 8), (128, 128, 128)), "JPEG", subsampling="4:4:4"))
    jpeg[jpeg.index(b"\xff\xc0") + 11] = 0x31  # three blocks of luma, then one of each colour
    scan = jpeg.index(SCAN)
    bits = 3 * "001010" + 2 * "0000" + "111111"  # each of nothing but mean grey
    assert (decode(bytes(jpeg[: scan + 14]) + int(bits, 2).to_bytes(4) + END) == 128).all()


def test_arithmetic_code_is_decoded() -> None:
    assert decode(ARITHMETIC_JPEG).shape == (24, 24)


@pytest.mark.parametrize("jpeg", [TWELVE_BIT_JPEG, LOSSLESS_JPEG], ids=["12 bits", "lossless"])
def test_what_no_browser_shows_is_unsupported(jpeg: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match="save it"):
        decode(jpeg)


@pytest.mark.parametrize("content", [b"Exif\0\0" + b"x" * 20, b"http://ns.adobe.com/xap/1.0/\0", b""], ids=repr)
@pytest.mark.parametrize("count", [10_000, 300_000])
def test_segments_cost_no_more_than_their_bytes(content: bytes, count: int) -> None:
    jpeg = encoded(Image.fromarray(colours()), "JPEG")
    data = jpeg[:2] + segment(0xE1, content) * count + jpeg[2:]
    started = time.process_time()
    if count > MAX_SEGMENTS and content.startswith(b"Exif"):
        with pytest.raises(UnsupportedImageError, match="segments"):
            decode(data)
    else:
        np.testing.assert_array_equal(decode(data), decode(jpeg))
    assert time.process_time() - started < 0.5  # seconds; a decoder that joins them takes minutes


@pytest.mark.parametrize("side", [32, 4_096])
def test_very_many_scans_are_refused(side: int) -> None:
    with pytest.raises(UnsupportedImageError, match="scans"):
        decode(rescanned_jpeg(side, 300))


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_markers_are_found_wherever_a_piece_of_the_search_ends(before: int) -> None:
    jpeg = encoded(picture(), "JPEG", quality=95)
    filled = jpeg[:2] + b"\xff" * (markers._PIECE_BYTES - before) + jpeg[2:]
    assert [*markers._segments(filled)] == [*markers._segments(jpeg)]


def test_a_search_for_markers_lets_other_threads_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's regular expressions do not: 20 MB of fill bytes would be 0.2 s."""
    jpeg = encoded(picture(), "JPEG")
    places: list[int] = []

    class Noting:
        def search(self, data: bytes, start: int, end: int) -> re.Match[bytes] | None:
            places.append(end - start)
            return re.compile(rb"\xff([^\x00\xff])").search(data, start, end)

    monkeypatch.setattr(markers, "_MARKER", Noting())
    assert markers.read_frame(jpeg[:2] + b"\xff" * 2**20 + jpeg[2:]).width == 96
    assert max(places) <= 2**17
