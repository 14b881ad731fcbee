"""Image files for tests: sound ones of many kinds, and what a broken encoder or a hostile client would send."""

from __future__ import annotations

import base64
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.images import MAX_SIDE, luma

WIDTH, HEIGHT = 24, 32
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True, "exact": True}, "BMP": {}}


def colours() -> Pixels:
    """A smooth picture in full colour that no flip or rotation leaves as it is: (HEIGHT, WIDTH, 3)."""
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    return np.stack([255 * x, 255 * y, 255 - 255 * x * y], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour_type: int, row: bytes, *extra: bytes) -> bytes:
    """A PNG of ``height`` equal rows, for what Pillow can't write: 16-bit colour, broken chunks, false sizes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * height))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


SAMPLES = [0, 255, 256, 4_096, 32_767, 32_768, 65_279, 65_535]


def tiff(tag: int = 0x0112, kind: int = 3, count: int = 1, value: bytes = b"\6\0\0\0", entries: int = 1) -> bytes:
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHI", entries, tag, kind, count) + value + b"\0\0\0\0"


BROKEN_EXIF = {
    "text": b"not EXIF at all",
    "no directory": b"II*\0",
    "directory beyond the end": b"II*\0\xff\xff\xff\x7f",
    "unknown byte order": b"XX*\0\x08\0\0\0",
    "more entries than bytes": tiff(tag=0x0100, entries=9_999),
    "value beyond the end": tiff(count=99, value=b"\xff\xff\0\0"),
    "two billion values": tiff(count=2**31 - 1),
    "unknown type": tiff(kind=77),
    "text for a number": tiff(kind=2, count=4, value=b"top\0"),
    "division by zero": tiff(kind=5, value=b"\x08\0\0\0"),
    "orientation 0": tiff(value=b"\0\0\0\0"),
    "orientation 9": tiff(value=b"\x09\0\0\0"),
}


def with_sides(kind: str, width: int, height: int) -> bytes:
    """A small file that claims to be large."""
    if kind == "PNG":
        return png(width, height, 8, 0, b"")[:60]
    data = bytearray(encoded(Image.fromarray(luma(colours())), kind, **LOSSLESS.get(kind, {})))
    if kind == "BMP":
        data[18:26] = struct.pack("<II", width, height)
    elif kind == "JPEG":
        frame = data.index(b"\xff\xc0") + 5
        data[frame : frame + 4] = struct.pack(">HH", height, width)
    else:  # WebP, lossless: 14 bits each after the signature byte
        sides = struct.unpack_from("<I", data, 21)[0] & 0xF000_0000 | (height - 1) << 14 | (width - 1)
        data[21:25] = struct.pack("<I", sides)
    return bytes(data)


NO_IMAGES = {
    "text": b"an eye, open\n" * 20,
    "html": b"<!doctype html><html><body><h1>413 Request Entity Too Large</h1></body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="24" height="24"><circle r="9"/></svg>',
    "pdf": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n",
    "zeros": bytes(4_096),
}


def valid_files() -> list[bytes]:
    colour = Image.fromarray(colours())
    grey, indexed, alpha = colour.convert("L"), colour.quantize(16), colour.convert("RGBA")
    return [
        encoded(grey, "JPEG", exif=orientation(6)),
        encoded(colour, "JPEG", progressive=True),
        encoded(colour.convert("CMYK"), "JPEG"),
        encoded(colour, "MPO", save_all=True, append_images=[colour]),
        encoded(grey, "PNG", exif=orientation(5)),
        encoded(indexed, "PNG", transparency=3),
        encoded(alpha, "PNG", save_all=True, append_images=[colour.rotate(90).convert("RGBA")]),
        png(8, 8, 16, 0, struct.pack(">8H", *SAMPLES)),
        encoded(colour, "WEBP", exif=orientation(7)),
        encoded(alpha, "WEBP", lossless=True),
        encoded(colour, "WEBP", save_all=True, append_images=[colour.rotate(90)]),
        encoded(grey, "BMP"),
        encoded(indexed, "BMP"),
        encoded(colour, "BMP"),
    ]


VALID = valid_files()


# Pillow writes baseline and progressive Huffman JPEGs only: libjpeg made these of a ramp of 24×24 pixels.
ARITHMETIC_JPEG = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV01yid4h#wq4h;?x5fBp?C>j_R78o%jB^@X_Gd(;xGdMRuNL)@pL{~*OI8bd-S6^ahXlFi6"
    "ad~iLcwA*?WB<tj3kU!h02l!Q5di<p00saM5C#9*00;pA002J#{{V9PHpU;S*Ap<AOza_E$RuXG%H>O3R{z-"
)
TWELVE_BIT_JPEG = base64.b85decode(
    "|JeWF01!$>Nk#wx0RR9200961|JwjV01yid4h#wq4h;?x5fBp?C>j_R78o%jB^@X_Gd(;xGdMRuNL)@pL{~*OI8bd-S6^ahXlFi6"
    "ad~iLcwA*?WB<Vb3k(1l02l!Q5di<h02KfM0RR9100000000000000A3;)Cb7Z3mg0RR91000000000000009MS}m@00;pA002J#"
    "Cd*=01(3ESU|B0-RtYyPiC7jw*p-1~t%+D9+_oiPSqoxT1(LQUVE@?"
)
LOSSLESS_JPEG = base64.b85decode(
    "|JeV;02TlN0RaF20000000000000001PK4b01F5J7yuXn01*KH+5iXv000I60MGT;U3J%8b=O^$*IjkjU3J%B000000000000000"
    "00000000000000000000000000000000000000000000000000000000000000000000000RPz"
)


def rescanned_jpeg(side: int, scans: int) -> bytes:
    """A progressive JPEG of ``scans`` more scans than it needs, of some bytes each."""
    data = encoded(Image.new("L", (side, side), 77), "JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    (length,) = struct.unpack_from(">H", data, start + 2)
    return data[:-2] + data[start : start + 2 + length] * scans + data[-2:]


def run_length_bmp(width: int, height: int, runs: bytes) -> bytes:
    """A BMP compressed as BI_RLE8."""
    offset = 54 + 4 * 256
    file_header = b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 0)
    return file_header + header + bytes(4 * 256) + runs


def webp_canvas(width: int, height: int) -> bytes:
    """A small animation on a canvas that is said to be large."""
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")]
    data = bytearray(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def exif_bomb(entries: int, size: int) -> bytes:
    """EXIF whose every tag holds the same ``size`` bytes."""
    tags = b"".join(struct.pack("<HHII", tag, 7, size, 8) for tag in range(entries))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + tags + bytes(4)).ljust(size + 8, b"\0")


def exif_loop() -> bytes:
    """EXIF whose directories are each other, and themselves."""
    pointers = b"".join(struct.pack("<HHII", tag, 4, 1, 8) for tag in (0x8769, 0x8825, 0xA005, 0x014A))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 4) + pointers + struct.pack("<I", 8)


def segment(marker: int, content: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def archive() -> bytes:
    """A ZIP file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as files:
        files.writestr("run.sh", "echo hello")
    return file.getvalue()


def framed_webp(image: Image.Image, left: int, top: int, canvas: tuple[int, int]) -> bytes:
    """An animation of one frame on a canvas (height, width), at an even place."""
    still = encoded(image, "WEBP", lossless=True)[12:]
    sides = [(side - 1).to_bytes(3, "little") for side in (canvas[1], canvas[0], *image.size)]
    place = (left // 2).to_bytes(3, "little") + (top // 2).to_bytes(3, "little")
    frame = place + sides[2] + sides[3] + (100).to_bytes(3, "little") + b"\0" + still
    chunks = {b"VP8X": b"\2\0\0\0" + sides[0] + sides[1], b"ANIM": bytes(6), b"ANMF": frame}
    file = b"".join(kind + struct.pack("<I", len(content)) + content for kind, content in chunks.items())
    return b"RIFF" + struct.pack("<I", 4 + len(file)) + b"WEBP" + file


def ycck_jpeg(transform: int = 2) -> bytes:
    data = bytearray(encoded(Image.fromarray(colours()).convert("CMYK"), "JPEG"))
    data[data.index(b"Adobe") + 11] = transform
    return bytes(data)


@cache
def hostile_files() -> dict[str, bytes]:
    """Files that cost a careless decoder all its time or memory, or are two things at once."""
    frames = [Image.fromarray(np.roll(colours(), i, axis=0)) for i in range(50)]
    animated = {"save_all": True, "append_images": frames[1:]}
    jpeg, row = encoded(frames[0], "JPEG"), bytes(WIDTH)
    profile = b"ICC_PROFILE\0"

    def extended(*segments: bytes) -> bytes:
        return jpeg[:2] + b"".join(segments) + jpeg[2:]

    def grey(*chunks: bytes) -> bytes:
        return png(WIDTH, HEIGHT, 8, 0, row, *chunks)

    return {
        "JPEG of thousands of scans": rescanned_jpeg(MAX_SIDE, 5_000),
        "small JPEG of thousands of scans": rescanned_jpeg(64, 5_000),
        "JPEG of very many segments": extended(segment(0xE5, b"") * 50_000),
        "JPEG of large comments": extended(segment(0xFE, bytes(65_533)) * 30),
        "JPEG with an enormous profile": extended(
            *(segment(0xE2, profile + bytes([n, 255, *bytes(65_000)])) for n in range(1, 256))
        ),
        "JPEG with EXIF in parts": extended(segment(0xE1, b"Exif\0\0" + exif_bomb(2_000, 60_000)) * 20),
        "JPEG with broken Photoshop data": extended(segment(0xED, b"Photoshop 3.0\0" + b"8BIM" * 10_000)),
        "JPEG with an index of itself": extended(segment(0xE2, b"MPF\0" + exif_bomb(2_000, 30_000))),
        "JPEG, arithmetic": ARITHMETIC_JPEG,
        "JPEG, 12 bits": TWELVE_BIT_JPEG,
        "JPEG, lossless": LOSSLESS_JPEG,
        "JPEG, YCCK": ycck_jpeg(),
        "JPEG and HTML": extended(segment(0xFE, b"<html><script>alert(1)</script></html>")),
        "JPEG and ZIP": jpeg + archive(),
        "JPEG twice": jpeg + jpeg,
        "PNG and ZIP": grey() + archive(),
        "PNG and JPEG": grey() + jpeg,
        "PNG that inflates beyond its rows": png(WIDTH, HEIGHT, 8, 0, bytes(2**20)),
        "PNG of largest size in few bytes": png(MAX_SIDE, MAX_SIDE, 8, 0, bytes(MAX_SIDE)),
        "PNG with text that inflates": grey(
            *[chunk(b"zTXt", b"a%d\0\0" % i + zlib.compress(bytes(10**6))) for i in range(100)]
        ),
        "PNG with long text": grey(chunk(b"tEXt", b"Comment\0" + b"x" * 10**6)),
        "PNG with a profile that inflates": grey(chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2**26)))),
        "PNG with EXIF of the same bytes": grey(chunk(b"eXIf", exif_bomb(5_000, 10**6))),
        "PNG with EXIF in a circle": grey(chunk(b"eXIf", exif_loop())),
        "PNG of very many chunks": grey(chunk(b"abCd", b"") * 50_000),
        "PNG of very many frames": grey(chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
        "PNG, animated": encoded(frames[0], "PNG", **animated),
        "WebP, animated": encoded(frames[0], "WEBP", **animated),
        "WebP on a canvas beyond the limit": webp_canvas(16_383, 16_383),
        "WebP on a canvas beyond the memory": webp_canvas(65_535, 65_536),
        "WebP with EXIF of the same bytes": encoded(frames[0], "WEBP", exif=exif_bomb(5_000, 10**6)),
        "GIF, animated": encoded(frames[0], "GIF", **animated),
        "BMP in runs": run_length_bmp(MAX_SIDE - 1, MAX_SIDE, b"\1\1\0\0" * MAX_SIDE),
        "BMP of nothing but line ends": run_length_bmp(MAX_SIDE, MAX_SIDE, bytes(2**20)),
    }


def corpus(count: int) -> list[bytes]:
    """``count`` files of every kind here, damaged and whole, the same ones each time."""
    chance = random.Random(3)
    small = [file for file in (*VALID, *hostile_files().values()) if len(file) < 2**13]
    sides = [(0, 0), (0, 24), (24, 0), (1, 1), (7, 24), (4_097, 8), (16_383, 16_383), (65_535, 65_535)]
    files = [*VALID, *hostile_files().values(), *NO_IMAGES.values()]
    files += [with_sides(kind, *each) for kind in ("PNG", "JPEG", "BMP") for each in sides]
    files += [with_sides("WEBP", *each) for each in sides if 0 < min(each) <= max(each) <= 2**14]
    files += [head[:4] + tail[4:] for head in small for tail in small]
    files += [file[: int(len(file) * share / 20)] for file in small for share in range(1, 20)]
    while len(files) < count * 2 // 3:
        flipped = bytearray(chance.choice(small))
        for _ in range(chance.randint(1, 8)):
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        files.append(bytes(flipped))
    files += mutations(count - len(files))
    return files


def mutations(count: int) -> Iterator[bytes]:
    chance = random.Random(1)
    for i in range(count):
        data = bytearray(VALID[i % len(VALID)])
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) + 1)
            length = chance.randint(1, 16)
            match chance.randrange(6):
                case 0:
                    data[at : at + length] = chance.randbytes(length)
                case 1:
                    data[at : at + 1] = bytes([chance.choice([0, 1, 127, 128, 255])])
                case 2:
                    del data[at : at + length]
                case 3:
                    data[at:at] = data[at : at + length]
                case 4:
                    data[at : at + length] = bytes(len(data[at : at + length]))
                case _:
                    other = chance.choice(VALID)
                    data[at : at + length] = other[at : at + length]
        yield bytes(data)
