"""Image bytes to pixels: every format and mode has the right values, and no bytes whatever break the decoder."""

from __future__ import annotations

import io
import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.errors import (
    CorruptImageError,
    EmptyImageError,
    ImageError,
    ImageTooLargeError,
    ImageTooSmallError,
    UnreadableFileError,
    UnsupportedImageError,
)
from eyestate.images import (
    MAX_BYTES,
    MAX_SIDE,
    MIN_SIDE,
    check_size,
    decode,
    decode_rgb,
    header_pixels,
    luma,
    read,
    to_input,
    to_inputs,
)
from tests.images import (
    BROKEN_EXIF,
    HEIGHT,
    LOSSLESS,
    NO_IMAGES,
    SAMPLES,
    VALID,
    WIDTH,
    chunk,
    colours,
    encoded,
    hostile_files,
    mutations,
    orientation,
    png,
    segment,
    tiff,
    with_sides,
)

Floats = npt.NDArray[np.float64]

JPEG_TOLERANCE = 3  # grey levels, at quality 95 on smooth colours


def luma_601(rgb: npt.ArrayLike) -> Floats:
    return np.asarray(rgb, dtype=np.float64) @ [0.299, 0.587, 0.114]


def assert_close(pixels: Pixels, expected: npt.ArrayLike, tolerance: float) -> None:
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.astype(np.float64), np.asarray(expected, np.float64), rtol=0, atol=tolerance)


# Formats and modes


@pytest.mark.parametrize("data", VALID, ids=range(len(VALID)))
def test_rgb_has_the_luma_of_grey(data: bytes) -> None:
    """What is decoded to colour is upright, and as bright as what is decoded to grey."""
    rgb, grey = decode_rgb(data), decode(data)
    assert rgb.shape == (*grey.shape, 3)
    assert_close(luma(rgb), grey, JPEG_TOLERANCE)


def test_rgb_is_refused_as_grey_is() -> None:
    def outcome(decoder: Callable[[bytes], Pixels], data: bytes) -> tuple[int, ...] | str:
        try:
            return decoder(data).shape[:2]
        except ImageError as error:
            return error.code

    for data in (*NO_IMAGES.values(), with_sides("PNG", MAX_SIDE + 1, 8), with_sides("JPEG", 7, 8), *mutations(200)):
        assert outcome(decode_rgb, data) == outcome(decode, data)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_colours_are_kept(kind: str) -> None:
    assert_close(decode_rgb(encoded(Image.fromarray(colours()), kind, **LOSSLESS[kind])), colours(), 0)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:2:0"}, {"keep_rgb": True}], ids=str)
def test_colour_jpeg_is_decoded_as_by_pillow(options: dict[str, object]) -> None:
    jpeg = encoded(Image.fromarray(colours()), "JPEG", quality=95, **options)
    assert_close(decode_rgb(jpeg), np.asarray(Image.open(io.BytesIO(jpeg))), 1)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_colour_becomes_luma(kind: str) -> None:
    assert_close(decode(encoded(Image.fromarray(colours()), kind, **LOSSLESS[kind])), luma_601(colours()), 1)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_grey_is_kept(kind: str) -> None:
    grey = luma(colours())
    assert_close(decode(encoded(Image.fromarray(grey), kind, **LOSSLESS[kind])), grey, 0)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_bilevel_becomes_black_and_white(kind: str) -> None:
    bilevel = luma(colours()) > 127
    assert_close(decode(encoded(Image.fromarray(bilevel), kind)), np.where(bilevel, 255, 0), 0)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_palette_is_looked_up(kind: str) -> None:
    indexed = Image.fromarray(colours()).quantize(64)
    assert_close(decode(encoded(indexed, kind)), luma_601(np.asarray(indexed.convert("RGB"))), 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"subsampling": "4:2:0"},
        {"subsampling": "4:4:4", "optimize": True},
        {"keep_rgb": True},
        {"icc_profile": b"no profile at all"},
    ],
    ids=str,
)
def test_colour_jpeg_becomes_luma(options: dict[str, object]) -> None:
    jpeg = encoded(Image.fromarray(colours()), "JPEG", quality=95, **options)
    assert_close(decode(jpeg), luma_601(colours()), JPEG_TOLERANCE)


@pytest.mark.parametrize("mode", ["L", "YCbCr", "CMYK"])
def test_jpeg_of_other_modes_becomes_luma(mode: str) -> None:
    jpeg = encoded(Image.fromarray(colours()).convert(mode), "JPEG", quality=95)
    assert_close(decode(jpeg), luma_601(colours()), JPEG_TOLERANCE)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossy_webp_becomes_luma(mode: str) -> None:
    webp = encoded(Image.fromarray(colours()).convert(mode), "WEBP", quality=95)
    assert_close(decode(webp), luma_601(colours()), 6)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "LA"), ("PNG", "RGBA"), ("WEBP", "RGBA")])
def test_alpha_is_laid_on_white(kind: str, mode: str) -> None:
    alpha = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
    image = Image.fromarray(colours()).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    share = alpha / 255
    expected = share * luma_601(colours()) + (1 - share) * 255
    assert_close(decode(encoded(image, kind, **LOSSLESS[kind])), expected, 2)


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"], ids=["index", "table"])
def test_transparent_palette_entry_is_white(transparency: int | bytes) -> None:
    indices = np.arange(WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH) % 3
    image = Image.fromarray(indices)
    image.putpalette([10, 10, 10, 20, 20, 20, 30, 30, 30])
    data = encoded(image, "PNG", transparency=transparency)
    assert_close(decode(data), np.array([10, 255, 30])[indices], 0)


def test_transparent_colour_key_is_white() -> None:
    rgb = np.full((HEIGHT, WIDTH, 3), 40, dtype=np.uint8)
    rgb[:, :5] = [200, 10, 10]
    expected = np.full((HEIGHT, WIDTH), 40)
    expected[:, :5] = 255
    assert_close(decode(encoded(Image.fromarray(rgb), "PNG", transparency=(200, 10, 10))), expected, 0)
    grey = luma(rgb)
    assert_close(decode(encoded(Image.fromarray(grey), "PNG", transparency=int(grey[0, 0]))), expected, 0)


EIGHT_BIT = [0, 0, 1, 16, 127, 128, 254, 255]


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)], ids=["grey", "colour"])
def test_sixteen_bits_are_scaled_to_eight(colour_type: int, channels: int) -> None:
    row = struct.pack(f">{8 * channels}H", *(sample for sample in SAMPLES for _ in range(channels)))
    assert_close(decode(png(8, 8, 16, colour_type, row)), [EIGHT_BIT] * 8, 0)


@pytest.mark.parametrize(("colour_type", "channels"), [(4, 1), (6, 3)], ids=["grey", "colour"])
def test_sixteen_bit_alpha_is_laid_on_white(colour_type: int, channels: int) -> None:
    pixels = [[51_400] * channels + [65_535]] * 4 + [[51_400] * channels + [0]] * 4
    row = struct.pack(f">{8 * (channels + 1)}H", *(sample for pixel in pixels for sample in pixel))
    assert_close(decode(png(8, 8, 16, colour_type, row)), [[200] * 4 + [255] * 4] * 8, 0)


def test_sixteen_bit_colour_key_is_white() -> None:
    row = struct.pack(">8H", *SAMPLES)
    expected = [*EIGHT_BIT[:3], 255, *EIGHT_BIT[4:]]
    assert_close(decode(png(8, 8, 16, 0, row, chunk(b"tRNS", struct.pack(">H", 4_096)))), [expected] * 8, 0)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_shallow_grey_is_scaled_to_eight_bits(depth: int) -> None:
    levels = 2**depth
    samples = np.arange(8) % levels
    bits = "".join(f"{sample:0{depth}b}" for sample in samples)
    row = int(bits, 2).to_bytes(depth, "big")
    assert_close(decode(png(8, 8, depth, 0, row)), np.tile(samples * 255 // (levels - 1), (8, 1)), 0)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_first_frame_of_an_animation_is_read(kind: str, options: dict[str, object]) -> None:
    frames = [Image.fromarray(np.roll(colours(), 7 * i, axis=0)) for i in range(3)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=40, **options)
    assert_close(decode(data), luma_601(colours()), 1)


def test_first_picture_of_a_phones_multi_picture_jpeg_is_read() -> None:
    upside_down = Image.fromarray(colours()[::-1])
    data = encoded(Image.fromarray(colours()), "MPO", save_all=True, append_images=[upside_down], quality=95)
    assert_close(decode(data), luma_601(colours()), JPEG_TOLERANCE)


# Orientation

# Exif 2.32, tag 274: where the stored rows and columns belong.
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("value", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_exif_orientation_is_applied(kind: str, value: int) -> None:
    stored = luma(colours())
    options = LOSSLESS.get(kind, {"quality": 95})
    data = encoded(Image.fromarray(stored), kind, exif=orientation(value), **options)
    assert_close(decode(data), UPRIGHT[value](stored), JPEG_TOLERANCE if kind == "JPEG" else 0)


def test_exif_after_the_pixels_of_a_png_is_applied() -> None:
    data = png(8, 9, 8, 0, bytes(range(8)))
    exif = chunk(b"eXIf", orientation(6).tobytes().removeprefix(b"Exif\0\0"))
    end = data.index(b"IEND") - 4
    assert decode(data).shape == (9, 8)
    assert decode(data[:end] + exif + data[end:]).shape == (8, 9)


@pytest.mark.parametrize("exif", BROKEN_EXIF.values(), ids=BROKEN_EXIF.keys())
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_broken_exif_does_not_cost_the_score(kind: str, exif: bytes) -> None:
    stored = Image.fromarray(luma(colours()))
    options = LOSSLESS.get(kind, {"quality": 95})
    intact = decode(encoded(stored, kind, **options))
    assert_close(decode(encoded(stored, kind, exif=b"Exif\0\0" + exif, **options)), intact, 0)


@settings(deadline=None)
@given(exif=st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: tiff()[:20] + tail))
def test_no_exif_block_costs_the_score(exif: bytes) -> None:
    stored = luma(colours())
    pixels = decode(encoded(Image.fromarray(stored), "PNG", exif=b"Exif\0\0" + exif))
    np.testing.assert_array_equal(np.sort(pixels, axis=None), np.sort(stored, axis=None))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_a_broken_tag_does_not_cost_the_orientation(kind: str) -> None:
    width_beyond_the_end, upright = tiff(tag=0x0100, count=99, value=b"\xff\xff\0\0")[10:22], tiff()[10:22]
    exif = b"Exif\0\0" + tiff()[:8] + b"\2\0" + width_beyond_the_end + upright + bytes(4)
    assert decode(encoded(Image.fromarray(colours()), kind, exif=exif)).shape == (WIDTH, HEIGHT)


@pytest.mark.parametrize("prefix", [b"Exif\0\0", b"Exif\0\xff", b"Exif\0 "])
def test_the_last_byte_of_the_prefix_is_any(prefix: bytes) -> None:
    jpeg = encoded(Image.fromarray(colours()), "JPEG")
    assert decode(jpeg[:2] + segment(0xE1, prefix + tiff()) + jpeg[2:]).shape == (WIDTH, HEIGHT)


def test_an_orientation_of_another_type_does_not_cost_that_behind_it() -> None:
    other, upright = tiff(kind=4)[10:22], tiff()[10:22]
    exif = b"Exif\0\0" + tiff()[:8] + b"\2\0" + other + upright + bytes(4)
    assert decode(encoded(Image.fromarray(colours()), "JPEG", exif=exif)).shape == (WIDTH, HEIGHT)


def test_malformed_multi_picture_index_does_not_cost_the_score() -> None:
    jpeg = encoded(Image.fromarray(colours()), "JPEG", quality=95)
    index = b"MPF\0XX*\0\x08\0\0\0\0\0"
    mpf = segment(0xE2, index)
    assert_close(decode(jpeg[:2] + mpf + jpeg[2:]), decode(jpeg), 0)


def test_animation_of_no_frames_does_not_cost_the_score() -> None:
    row = bytes(range(8))
    assert_close(decode(png(8, 8, 8, 0, row, chunk(b"acTL", bytes(8)))), [list(row)] * 8, 0)


@pytest.mark.parametrize("name", hostile_files())
def test_no_file_takes_much_more_than_its_pixels_do(name: str) -> None:
    memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    decodes(hostile_files()[name])
    assert time.process_time() - started < 1  # seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 128 * 1024  # KiB


def test_the_pixels_of_a_file_that_proves_damaged_are_told() -> None:
    damaged = encoded(Image.new("L", (200, 100)), "BMP")[:-40]
    with pytest.raises(CorruptImageError) as error:
        decode(damaged)
    assert error.value.pixels == 20_000


# Limits


@pytest.mark.parametrize("sides", [(8, 8), (8, 4096), (4096, 8), (4096, 4096)], ids=str)
def test_sides_within_the_limits_are_accepted(sides: tuple[int, int]) -> None:
    pixels = decode(encoded(Image.new("L", sides, 77), "PNG"))
    assert pixels.shape == sides[::-1]
    assert (pixels == 77).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize(
    ("sides", "error"),
    [
        ((7, 8), ImageTooSmallError),
        ((8, 7), ImageTooSmallError),
        ((1, 4097), ImageTooSmallError),
        ((8, 4097), ImageTooLargeError),
        ((4097, 8), ImageTooLargeError),
    ],
    ids=str,
)
def test_sides_beyond_the_limits_are_refused(kind: str, sides: tuple[int, int], error: type[ImageError]) -> None:
    data = encoded(Image.new("L", sides), kind)
    with pytest.raises(error, match=f"{sides[0]}×{sides[1]} pixels"):
        decode(data)
    with pytest.raises(error):
        check_size(*sides)


def test_byte_limit() -> None:
    data = encoded(Image.fromarray(colours()), "PNG").ljust(MAX_BYTES, b"\0")
    assert_close(decode(data), luma_601(colours()), 1)
    with pytest.raises(ImageTooLargeError, match="20,971,521 bytes"):
        decode(data + b"\0")


@pytest.mark.parametrize(
    ("kind", "width", "height"),
    [
        ("PNG", 100_000, 100_000),
        ("PNG", 10_000, 10_000),
        ("PNG", 2**31 - 1, 1_000),
        ("BMP", 100_000, 100_000),
        ("JPEG", 65_535, 65_535),
        ("WEBP", 16_384, 16_384),
    ],
)
def test_dimension_bomb_is_refused_before_decoding(kind: str, width: int, height: int) -> None:
    bomb = with_sides(kind, width, height)
    memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ImageTooLargeError):
        decode(bomb)
    assert time.process_time() - started < 1  # seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 64 * 1024  # KiB


# Bytes that are no image


def test_empty_input() -> None:
    with pytest.raises(EmptyImageError, match="0 bytes"):
        decode(b"")


@pytest.mark.parametrize("data", NO_IMAGES.values(), ids=NO_IMAGES.keys())
def test_bytes_that_are_no_image_are_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match="JPEG, PNG, WEBP, BMP"):
        decode(data)


def test_what_a_file_is_instead_of_an_image_is_told() -> None:
    with pytest.raises(UnsupportedImageError, match=r"it begins with b'version https://git-lfs"):
        decode(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def test_the_sides_of_a_webp_are_those_of_its_first_header() -> None:
    webp = encoded(Image.fromarray(colours()), "WEBP", lossless=True)
    canvas = b"VP8X" + struct.pack("<II", 10, 0)
    first, second = (canvas + (side - 1).to_bytes(3, "little") * 2 for side in (24, 4_000))
    file = first + second + webp[12:]
    assert header_pixels(b"RIFF" + struct.pack("<I", 4 + len(file)) + b"WEBP" + file) == 24 * 24


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "ICO", "PPM", "TGA"])
def test_other_image_formats_are_unsupported(kind: str) -> None:
    with pytest.raises(UnsupportedImageError):
        decode(encoded(Image.fromarray(colours()), kind))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_truncated_file_is_corrupt(kind: str, share: float) -> None:
    data = encoded(Image.fromarray(colours()), kind)
    with pytest.raises(CorruptImageError, match=r"damaged: \w"):
        decode(data[: int(len(data) * share)])


def test_palette_image_without_a_palette_is_corrupt() -> None:
    with pytest.raises(CorruptImageError, match=r"damaged: \w"):
        decode(png(8, 8, 8, 3, bytes(8)))


# Whatever comes: pixels or an ImageError


def decodes(data: bytes) -> bool:
    try:
        pixels = decode(data)
    except ImageError:
        return False
    assert pixels.dtype == np.uint8
    height, width = pixels.shape
    assert min(height, width) >= MIN_SIDE
    assert max(height, width) <= MAX_SIDE
    return True


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_no_image(data: bytes) -> None:
    assert not decodes(data)


@settings(deadline=None, max_examples=300)
@given(start=st.sampled_from(VALID), kept=st.integers(2, 60), tail=st.binary(max_size=300))
def test_bytes_after_a_valid_beginning(start: bytes, kept: int, tail: bytes) -> None:
    decodes(start[:kept] + tail)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(VALID), st.data())
def test_mutated_files(file: bytes, data: st.DataObject) -> None:
    mutated = bytearray(file)
    positions = st.integers(0, len(file) - 1)
    for position, value in data.draw(st.lists(st.tuples(positions, st.integers(0, 255)), max_size=6)):
        mutated[position] = value
    decodes(bytes(mutated))


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(VALID), st.sampled_from(VALID), st.floats(0, 1), st.floats(0, 1))
def test_spliced_files(head: bytes, tail: bytes, cut: float, resume: float) -> None:
    decodes(head[: int(cut * len(head))] + tail[int(resume * len(tail)) :])


def test_two_thousand_damaged_files() -> None:
    outcomes = [decodes(data) for data in mutations(2_000)]
    assert 200 < sum(outcomes) < 1_800  # the damage reaches into the files, yet does not only hit their signatures


# The model's input


def triangle_filter(size: int, side: int) -> Floats:
    """Bilinear resampling with antialiasing as a matrix (side, size)."""
    scale = size / side
    centres = (np.arange(side) + 0.5) * scale
    distances = np.abs(np.arange(size) + 0.5 - centres[:, None]) / max(scale, 1)
    weights = np.maximum(0, 1 - distances)
    normalised: Floats = weights / weights.sum(axis=1, keepdims=True)
    return normalised


GREY = arrays.arrays(np.uint8, st.tuples(st.integers(8, 50), st.integers(8, 50)))


@settings(deadline=None, max_examples=60)
@given(GREY, st.integers(8, 64))
def test_input_is_resized_bilinearly(pixels: Pixels, side: int) -> None:
    expected = triangle_filter(pixels.shape[0], side) @ pixels @ triangle_filter(pixels.shape[1], side).T
    resized = to_input(pixels, side)
    assert resized.shape == (side, side)
    assert_close(resized, expected, 1.01)  # Pillow rounds after each of its two passes
    pillow = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized, np.asarray(pillow))


def test_input_of_the_right_size_is_left_alone() -> None:
    pixels = luma(colours())[:WIDTH]
    assert to_input(pixels, WIDTH) is pixels


def test_input_need_not_be_contiguous() -> None:
    pixels = luma(colours())
    np.testing.assert_array_equal(to_input(pixels.T[::-1], 16), to_input(pixels.T[::-1].copy(), 16))


def test_luma_is_itu_601() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    assert_close(luma(rgb), luma_601(rgb), 0.51)


# Files


def test_read(tmp_path: Path) -> None:
    file = tmp_path / "eye.png"
    file.write_bytes(VALID[0])
    assert read(file) == VALID[0]


def test_read_stops_where_decode_refuses(tmp_path: Path) -> None:
    file = tmp_path / "large.bmp"
    with file.open("wb") as sparse:
        sparse.truncate(3 * MAX_BYTES)
    assert len(read(file)) == MAX_BYTES + 1


@pytest.mark.parametrize("name", ["missing.png", "."])
def test_read_of_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnreadableFileError, match=r"cannot read .*: (No such file|Is a directory)"):
        read(tmp_path / name)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 5), height=st.integers(8, 120), width=st.integers(8, 120), side=st.integers(8, 120))
def test_resizing_many_is_resizing_each(n: int, height: int, width: int, side: int) -> None:
    crops = np.random.default_rng(n).integers(0, 256, (n, height, width), dtype=np.uint8)
    together = to_inputs(crops, side)
    assert together.shape == (n, side, side)
    assert together.dtype == np.uint8
    for resized, crop in zip(together, crops, strict=True):
        np.testing.assert_array_equal(resized, to_input(crop, side))


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(8, 80),
    height=st.integers(8, 80),
    mode=st.sampled_from(["L", "RGB"]),
    quality=st.integers(1, 100),
    subsampling=st.integers(0, 2),
    progressive=st.booleans(),
    seed=st.integers(0, 9),
)
def test_the_short_way_of_a_sound_jpeg_is_pillows(
    *, width: int, height: int, mode: str, quality: int, subsampling: int, progressive: bool, seed: int
) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(
        file, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive
    )
    image = Image.open(io.BytesIO(file.getvalue()))
    image.draft("L", image.size)
    np.testing.assert_array_equal(decode(file.getvalue()), np.asarray(image.convert("L")))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_the_pixels_left_for_several_images_bound_each(image_format: str) -> None:
    file = io.BytesIO()
    Image.new("L", (20, 30)).save(file, image_format)
    assert decode(file.getvalue(), max_pixels=600).shape == (30, 20)
    with pytest.raises(ImageTooLargeError, match="599 are left"):
        decode(file.getvalue(), max_pixels=599)
