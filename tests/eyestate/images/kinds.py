"""Files of every kind that the formats have, as in PngSuite, bmpsuite and the tests of libjpeg-turbo and libwebp."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.images import luma
from tests.images import (
    ARITHMETIC_JPEG,
    LOSSLESS_JPEG,
    TWELVE_BIT_JPEG,
    chunk,
    colours,
    encoded,
    framed_webp,
    orientation,
    rescanned_jpeg,
    run_length_bmp,
    segment,
    ycck_jpeg,
)

Samples = npt.NDArray[np.integer]

RGB = colours()
GREY = luma(RGB)
HEIGHT, WIDTH = GREY.shape
LEFT = np.arange(WIDTH) < WIDTH // 2  # columns that are transparent, where some are
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True)
class Kind:
    """A row of the table in docs/image-formats.md.

    Attributes:
        image_format, name: what the table says.
        files: examples.
        outcome: ``scored``, or the code of the error.
        grey: what they look like, None where it is something else, or an error.
        tolerance: grey levels by which it may differ.
    """

    image_format: str
    name: str
    files: Sequence[bytes]
    outcome: str = "scored"
    grey: Pixels | None = None
    tolerance: int = 1


def scaled(grey: Pixels, depth: int) -> Samples:
    """Grey of 8 bits as samples of another depth."""
    return np.asarray((grey.astype(np.int64) * (2**depth - 1) + 127) // 255)


def seen(samples: Samples, depth: int) -> Pixels:
    """What samples of a depth look like."""
    return np.asarray(samples * 255 // (2**depth - 1), np.uint8)


def bits(row: Samples, depth: int, order: str = ">") -> bytes:
    """The samples of a row, in whole bytes."""
    if depth >= 8:
        return row.astype(f"{order}u{depth // 8}").tobytes()
    text = "".join(f"{sample:0{depth}b}" for sample in row.ravel().tolist())
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8))


def png(
    samples: Samples,
    depth: int,
    colour_type: int,
    *chunks: bytes,
    interlaced: bool = False,
    filters: bool = False,
    step: int = 2**16,
    level: int = 6,
) -> bytes:
    """A PNG of samples (height, width, channels)."""
    height, width = samples.shape[:2]
    rows = bytearray()
    for left, top, across, down in ADAM7 if interlaced else ((0, 0, 1, 1),):
        for number, row in enumerate(samples[top::down, left::across]):
            if row.size:
                line = bits(row, depth)
                if filters and number % 2:  # of type 1: each byte less the one a pixel to its left
                    size = max(1, depth * samples.shape[2] // 8)
                    before = bytes(size) + line[:-size]
                    rows += b"\1" + bytes((byte - left_of) % 256 for byte, left_of in zip(line, before, strict=True))
                else:
                    rows += b"\0" + line
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlaced))
    stream = zlib.compress(bytes(rows), level)
    pixels = b"".join(chunk(b"IDAT", stream[i : i + step]) for i in range(0, len(stream), step))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def pngs() -> Iterator[Kind]:
    grey = GREY[:, :, np.newaxis]
    for depth in (1, 2, 4, 8, 16):
        samples = scaled(grey, depth)
        both = [png(samples, depth, 0, interlaced=each) for each in (False, True)]
        yield Kind("PNG", f"grey, {depth}-bit, also interlaced", both, grey=seen(samples, depth)[:, :, 0])
    for depth in (8, 16):
        both = [png(scaled(RGB, depth), depth, 2, interlaced=each) for each in (False, True)]
        yield Kind("PNG", f"colour, {depth}-bit, also interlaced", both, grey=GREY)
    for depth in (1, 2, 4, 8):
        indices = scaled(grey, depth)
        shades = np.linspace(0, 255, 2**depth).astype(np.uint8)
        palette = chunk(b"PLTE", np.stack([shades] * 3, axis=-1).tobytes())
        both = [png(indices, depth, 3, palette, interlaced=each) for each in (False, True)]
        yield Kind("PNG", f"palette, {depth}-bit, also interlaced", both, grey=shades[indices[:, :, 0]])
    white = np.where(LEFT, 255, GREY).astype(np.uint8)
    for depth in (8, 16):
        alpha = np.broadcast_to(np.where(LEFT, 0, 2**depth - 1), GREY.shape)[:, :, np.newaxis]
        files = [
            png(np.concatenate([scaled(base, depth), alpha], axis=-1), depth, colour_type, interlaced=each)
            for base, colour_type in ((grey, 4), (RGB, 6))
            for each in (False, True)
        ]
        yield Kind("PNG", f"alpha channel, {depth}-bit, grey and colour", files, grey=white)
    keyed = []
    for depth in (1, 2, 4, 8, 16):
        samples = np.where(LEFT[:, np.newaxis], 1, 0) * np.ones((HEIGHT, 1, 1), np.int64)
        keyed.append(png(samples, depth, 0, chunk(b"tRNS", struct.pack(">H", 1))))
    for depth in (8, 16):
        samples = np.where(LEFT[:, np.newaxis], 2**depth - 9, 0) * np.ones((HEIGHT, 1, 3), np.int64)
        keyed.append(png(samples, depth, 2, chunk(b"tRNS", struct.pack(">3H", *[2**depth - 9] * 3))))
    indices = np.where(LEFT[:, np.newaxis], 1, 0) * np.ones((HEIGHT, 1, 1), np.int64)
    black = chunk(b"PLTE", bytes(6))
    keyed += [png(indices, depth, 3, black, chunk(b"tRNS", b"\xff\0")) for depth in (1, 2, 4, 8)]
    misplaced = [png(indices, 8, 3, chunk(b"tRNS", b"\0\0"), black)]
    misplaced += [png(indices, 8, 3, black)[:-12] + chunk(b"tRNS", b"\0\0") + chunk(b"IEND", b"")]
    yield Kind("PNG", "tRNS before the palette or behind the pixels: none", misplaced, grey=np.zeros_like(GREY))
    stencil = np.where(LEFT, 255, np.zeros_like(GREY))
    yield Kind("PNG", "transparent colour (tRNS), all depths and types", keyed, grey=stencil)
    sizes = [
        png(scaled(GREY[:height, :width, np.newaxis], 2), 2, 0, interlaced=each)
        for height in (8, 9, 15, 31)
        for width in (8, 11, 17, 23)
        for each in (False, True)
    ]
    yield Kind("PNG", "odd sizes", sizes)
    whole = [
        png(grey, 8, 0, filters=True),
        *(png(RGB, 8, 2, level=level) for level in (0, 1, 9)),
        png(RGB, 8, 2, step=1),
    ]
    yield Kind("PNG", "filters, compression levels, pixels in chunks of a byte", whole, grey=GREY)
    extra = [
        chunk(kind, content)
        for kind, content in {
            b"gAMA": struct.pack(">I", 45_455),
            b"sRGB": b"\0",
            b"sBIT": b"\5",
            b"bKGD": b"\0\x80",
            b"pHYs": bytes(9),
            b"tIME": bytes(7),
            b"tEXt": b"Comment\0an eye",
            b"zTXt": b"Comment\0\0" + zlib.compress(b"x" * 10**6),
            b"iCCP": b"p\0\0" + zlib.compress(b"no profile"),
            b"acTL": struct.pack(">II", 2**31, 0),
        }.items()
    ]
    plain = png(grey, 8, 0)
    broken = [plain[:33] + struct.pack(">I4s", 3, kind) + b"abc" + bytes(4) + plain[33:] for kind in (b"tEXt", b"tRNS")]
    yield Kind("PNG", "metadata, also with a wrong checksum", [png(grey, 8, 0, *extra), *broken], grey=GREY)
    yield Kind("PNG", "no end, or more behind it", [plain[:-12], plain[:-5], plain + bytes(99)], grey=GREY)
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - GREY)]}
    yield Kind("PNG", "animation: its still image", [encoded(Image.fromarray(GREY), "PNG", **frames)], grey=GREY)


def damaged_pngs() -> Iterator[Kind]:
    grey = GREY[:, :, np.newaxis]
    plain = png(grey, 8, 0)
    place = plain.index(b"IDAT")
    flipped = bytearray(plain)
    flipped[place + 20] ^= 1
    header = bytearray(plain)
    header[19] ^= 1
    lost = [bytes(flipped), bytes(header), plain[: place + 60], plain[: place - 4] + plain[-12:]]
    short = zlib.compress((b"\0" + bytes(WIDTH)) * (HEIGHT // 2))
    lost.append(plain[: place - 4] + chunk(b"IDAT", short) + chunk(b"IEND", b""))
    yield Kind("PNG", "wrong checksum of header or pixels, rows missing", lost, "corrupt_image")
    wrong = [png(grey, 8, 0)[:24] + bytes(each) + png(grey, 8, 0)[26:29] for each in ((8, 1), (8, 9), (3, 0), (0, 0))]
    wrong = [each + zlib.crc32(each[12:29]).to_bytes(4) + plain[33:] for each in wrong]
    wrong += [png(scaled(grey, 1), 1, 3), png(scaled(grey, 1), 1, 3, chunk(b"PLTE", b""))]
    yield Kind("PNG", "unknown colour type or depth, no palette", wrong, "corrupt_image")


def bmp(
    rows: Pixels | bytes,
    depth: int,
    *,
    length: int = 40,
    compression: int = 0,
    masks: Sequence[int] = (),
    palette: bytes = b"",
    gap: int = 0,
    height: int = HEIGHT,
) -> bytes:
    """A BMP of stored rows: bottom up, each filled up to four bytes."""
    stored = (
        rows
        if isinstance(rows, bytes)
        else b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in map(bytes, rows))
    )
    if length == 12:
        header = struct.pack("<IHHHH", 12, WIDTH, height, 1, depth)
    else:
        entries = len(palette) // 4
        header = struct.pack(
            "<IiiHHIIiiII", length, WIDTH, height, 1, depth, compression, len(stored), 0, 0, entries, 0
        )
        fields = struct.pack(f"<{len(masks)}I", *masks)
        header = header[:length] if length < 40 else (header + fields).ljust(length, b"\0")
    offset = 14 + len(header) + len(palette) + gap
    return b"BM" + struct.pack("<IHHI", offset + len(stored), 0, 0, offset) + header + palette + bytes(gap) + stored


def bmps() -> Iterator[Kind]:
    upward, bgr = GREY[::-1].astype(np.int64), RGB[::-1, :, ::-1]
    for depth in (1, 2, 4, 8):
        indices = scaled(GREY, depth)[::-1]
        shades = np.linspace(0, 255, 2**depth).astype(np.uint8)
        rows = np.array([np.frombuffer(bits(row, depth), np.uint8) for row in indices])
        quads = np.stack([shades] * 3 + [shades * 0], axis=-1).tobytes()
        triples = np.stack([shades] * 3, axis=-1).tobytes()
        files = [bmp(rows, depth, palette=quads), bmp(rows, depth, palette=quads, gap=20, length=108)]
        files += [bmp(rows, depth, palette=triples, length=12), bmp(rows[::-1], depth, palette=quads, height=-HEIGHT)]
        yield Kind("BMP", f"palette, {depth}-bit", files, grey=shades[indices[::-1]])
    rows = bgr.reshape(HEIGHT, -1)
    lengths = (12, 16, 40, 52, 56, 64, 108, 124)
    true = [bmp(rows, 24, length=length) for length in lengths] + [bmp(rows[::-1], 24, height=-HEIGHT)]
    yield Kind("BMP", "colour, 24-bit, all headers, also top-down", true, grey=GREY)
    whole = np.dstack([bgr, np.zeros_like(upward, np.uint8)])
    opaque = np.dstack([bgr, np.full_like(upward, 255, np.uint8)])
    bgra = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    unwritten = [bmp(each.reshape(HEIGHT, -1), 32) for each in (whole, opaque)]
    unwritten += [
        bmp(each.reshape(HEIGHT, -1), 32, length=length, compression=3, masks=bgra)
        for each in (whole, opaque)
        for length in (56, 108, 124)
    ]
    yield Kind("BMP", "colour, 32-bit; alpha of nothing but zeros", unwritten, grey=GREY)
    alpha = np.dstack([bgr, np.broadcast_to(np.where(LEFT, 0, 255), GREY.shape).astype(np.uint8)])
    veiled = bmp(alpha.reshape(HEIGHT, -1), 32, length=124, compression=3, masks=bgra)
    yield Kind("BMP", "alpha channel, 32-bit", [veiled], grey=np.where(LEFT, 255, GREY).astype(np.uint8))
    inner = [bmp(encoded(Image.fromarray(RGB), kind), 0, compression=each) for kind, each in (("JPEG", 4), ("PNG", 5))]
    yield Kind(
        "BMP", "a JPEG or PNG inside, OS/2's Huffman code", [*inner, bmp(b"", 1, compression=3)], "unsupported_image"
    )
    large = run_length_bmp(4_096, 4_096, b"\1\1" * 200_000)
    yield Kind("BMP", "run-length encoded in more than 256 KiB", [large], "unsupported_image")
    cut = [true[2][:-80], true[2][:30], bmp(GREY, 8)]
    yield Kind("BMP", "cut off, no palette", cut, "corrupt_image")


def bit_fields() -> Iterator[Kind]:
    upward = GREY[::-1].astype(np.int64)
    layouts = {"5-5-5": (5, 5, 5, 0), "5-6-5": (5, 6, 5, 0), "4-4-4-4": (4, 4, 4, 4), "10-10-10-2": (10, 10, 10, 2)}
    for name, widths in layouts.items():
        depth = 16 if sum(widths) <= 16 else 32
        values, shift = np.zeros_like(upward), 0
        masks: list[int] = []
        for width in reversed(widths):
            values |= (
                scaled(GREY[::-1], width) if shift or not widths[3] else np.full_like(upward, 2**width - 1)
            ) << shift
            masks.insert(0, (2**width - 1) << shift)
            shift += width
        values_rows = values.astype(f"<u{depth // 8}").view(np.uint8).reshape(HEIGHT, -1)
        length = 108 if widths[3] else 40
        given = bmp(values_rows, depth, length=length, compression=3, masks=masks if widths[3] else masks[:3])
        files = [given if widths[3] else given.replace(given[10:14], struct.pack("<I", 66), 1)]
        files += [bmp(values_rows, 16)] if name == "5-5-5" else []
        yield Kind("BMP", f"bit fields {name}", files, grey=seen(scaled(GREY, widths[1]), widths[1]), tolerance=8)


def run_length_encoded() -> Iterator[Kind]:
    shades = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], 4, axis=1).tobytes()
    coded = (
        b"".join(b"\0" + bytes([WIDTH]) + row.tobytes() + bytes(WIDTH % 2) + b"\0\0" for row in GREY[::-1]) + b"\0\1"
    )
    runs = b"".join(bytes([1, value]) for value in GREY[::-1].ravel().tolist()[: WIDTH * HEIGHT])
    runs = b"".join(runs[i : i + 2 * WIDTH] + b"\0\0" for i in range(0, len(runs), 2 * WIDTH)) + b"\0\1"
    eights = [bmp(each, 8, compression=1, palette=shades) for each in (coded, runs, runs[:-4])]
    yield Kind("BMP", "run-length encoded, 8-bit", eights, grey=GREY)
    nibbles = scaled(GREY, 4)[::-1]
    sixteen = np.repeat(np.linspace(0, 255, 16).astype(np.uint8)[:, np.newaxis], 4, axis=1).tobytes()
    coded = b"".join(b"\0" + bytes([WIDTH]) + bits(row, 4) + b"\0\0" for row in nibbles) + b"\0\1"
    four = bmp(coded, 4, compression=2, palette=sixteen)
    yield Kind("BMP", "run-length encoded, 4-bit", [four], grey=seen(nibbles[::-1], 4))
    skipped = (
        b"".join(b"\0\2" + bytes([WIDTH // 2, 0]) + bytes([WIDTH - WIDTH // 2, 0]) + b"\0\0" for _ in GREY) + b"\0\1"
    )
    right = np.where(LEFT, 255, np.zeros_like(GREY))
    yield Kind("BMP", "left-out pixels", [bmp(skipped, 8, compression=1, palette=shades)], grey=right)
    cut = [four[:-40], eights[0][: len(eights[0]) // 2]]
    yield Kind("BMP", "run-length encoded, cut off", cut, "corrupt_image")


def jpegs() -> Iterator[Kind]:
    colour, grey = Image.fromarray(RGB), Image.fromarray(GREY)
    good = {"quality": 95}
    plain = encoded(colour, "JPEG", **good)
    makes = {
        "grey": [encoded(grey, "JPEG", **good)],
        "colour, subsampled 4:4:4, 4:2:2, 4:2:0": [encoded(colour, "JPEG", subsampling=n, **good) for n in range(3)],
        "progressive": [encoded(each, "JPEG", progressive=True, **good) for each in (colour, grey)],
        "optimised, restart markers": [encoded(colour, "JPEG", optimize=True, restart_marker_blocks=1, **good)],
        "stored as RGB": [encoded(colour, "JPEG", keep_rgb=True, **good)],
        "CMYK": [encoded(colour.convert("CMYK"), "JPEG", **good)],
        "multi-picture: its first picture": [encoded(colour, "MPO", save_all=True, append_images=[grey], **good)],
        "motion photo: its picture": [plain + b"MotionPhoto_Data" + np.random.default_rng(0).bytes(10**6)],
        "large segments of a maker": [plain[:2] + segment(0xE4, b"\xff\xda" * 30_000) * 100 + plain[2:]],
        "stray bytes before the end, no end": [plain[:-2] + bytes(30) + plain[-2:], plain[:-2]],
    }
    for name, files in makes.items():
        yield Kind("JPEG", name, files, grey=GREY, tolerance=8)
    of_four = plain[:2] + segment(0xEE, b"Adobe\0d\0\0\0\0\x02") + plain[20:]
    yield Kind("JPEG", "Adobe's marker for four colours, and three of them", [of_four], grey=GREY, tolerance=8)
    yield Kind("JPEG", "YCCK, arithmetic code", [ycck_jpeg(), ycck_jpeg(transform=1), ARITHMETIC_JPEG])
    jpeg_ls = plain.replace(b"\xff\xc0", b"\xff\xf7", 1)
    yield Kind("JPEG", "12-bit, lossless, JPEG-LS", [TWELVE_BIT_JPEG, LOSSLESS_JPEG, jpeg_ls], "unsupported_image")
    many = [rescanned_jpeg(64, 300), plain[:2] + segment(0xE1, b"Exif\0\0") * 20_000 + plain[2:]]
    yield Kind("JPEG", "more than 256 scans or 16,384 segments", many, "unsupported_image")
    scan = plain.index(b"\xff\xda") + 14
    zeros = plain[: scan + 40] + bytes(60) + plain[scan + 100 :]
    cut = [zeros, plain[:scan] + b"\xff\xd9", plain[: len(plain) - 80] + b"\xff\xd9", plain[: scan + 50]]
    yield Kind("JPEG", "a part of the scan lost or zeroed", cut, "corrupt_image")
    progressive = encoded(colour, "JPEG", progressive=True)
    yield Kind("JPEG", "scans missing", [progressive[: progressive.rindex(b"\xff\xda")] + b"\xff\xd9"], "corrupt_image")


def webps() -> Iterator[Kind]:
    colour = Image.fromarray(RGB)
    exact = {"lossless": True, "exact": True}
    yield Kind("WebP", "lossy", [encoded(colour, "WEBP", quality=95)], grey=GREY, tolerance=8)
    lossless = encoded(colour, "WEBP", **exact)
    yield Kind("WebP", "lossless", [lossless], grey=GREY)
    veiled = colour.convert("RGBA")
    veiled.putalpha(Image.fromarray(np.broadcast_to(np.where(LEFT, 0, 255), GREY.shape).astype(np.uint8)))
    white = np.where(LEFT, 255, GREY).astype(np.uint8)
    alphas = [encoded(veiled, "WEBP", quality=95), encoded(veiled, "WEBP", **exact)]
    yield Kind("WebP", "alpha channel, lossy and lossless", alphas, grey=white, tolerance=12)
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - RGB)] * 3}
    yield Kind("WebP", "animation: its first frame", [encoded(colour, "WEBP", **frames, **exact)], grey=GREY)
    framed = np.pad(GREY, ((10, 2), (8, 6)), constant_values=255)
    yield Kind(
        "WebP", "a first frame smaller than the animation", [framed_webp(colour, 8, 10, framed.shape)], grey=framed
    )
    more = {"icc_profile": b"no profile", "xmp": b"<x/>", "exif": orientation(1)}
    files = [encoded(colour, "WEBP", **more, **exact), lossless + bytes(99)]
    yield Kind("WebP", "metadata, more behind the end", files, grey=GREY)
    yield Kind("WebP", "cut off", [lossless[:-20], alphas[0][:-20], lossless[:30]], "corrupt_image")


def others() -> Iterator[Kind]:
    frames = [encoded(Image.fromarray(GREY), kind) for kind in ("GIF", "TIFF", "ICO", "AVIF", "JPEG2000", "TGA")]
    yield Kind("other", "GIF, TIFF, ICO, AVIF, JPEG 2000, TGA", frames, "unsupported_image")
    turned = [
        encoded(Image.fromarray(GREY.T), kind, exif=orientation(5), **options)
        for kind, options in (("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True}))
    ]
    yield Kind("all", "EXIF orientation (JPEG, PNG, WebP)", turned, grey=GREY, tolerance=8)


KINDS = [*jpegs(), *pngs(), *damaged_pngs(), *webps(), *bmps(), *bit_fields(), *run_length_encoded(), *others()]


def table() -> str:
    """The table in docs/image-formats.md."""
    rows = [f"| {kind.image_format} | {kind.name} | {kind.outcome.replace('_', ' ')} |" for kind in KINDS]
    return "\n".join(["| Format | Kind | Outcome |", "|---|---|---|", *rows])
