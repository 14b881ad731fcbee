"""SECURITY.md states the limits of the code, and the documents link to what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eyestate import errors, images
from eyestate.server import arrow_messages, codings, connections, packed, uploads, websockets
from eyestate.server.openinference import tensors
from eyestate.settings import Settings

PROJECT = Path(__file__).parents[2]
SECURITY = (PROJECT / "SECURITY.md").read_text()
ROWS = dict(re.findall(r"^\| (.+?) \| (.+? \|.+?) \|$", SECURITY, re.MULTILINE))
DOCUMENTS = ("SECURITY.md", "CONTRIBUTING.md", "docs/release.md", "docs/container.md")
MIB = 2**20
DEFAULTS = Settings()

STATED: dict[str, tuple[str, list[type[errors.EyestateError]]]] = {
    "Request line and headers": (f"{connections.MAX_HEAD_BYTES // 2**10} KiB", [errors.HeadTooLargeError]),
    "Seconds for receiving a head or a body, for reading a response": (
        f"{DEFAULTS.timeout:g} (`EYESTATE_TIMEOUT`)",
        [errors.RequestTimeoutError],
    ),
    "Seconds a connection may be idle between requests": (f"{DEFAULTS.keep_alive:g} (`EYESTATE_KEEP_ALIVE`)", []),
    "Requests sent on a connection before the first of them is answered": (f"{connections.MAX_PIPELINED + 1}", []),
    "Body with one image": (f"{images.MAX_BYTES // MIB} MiB", [errors.ImageTooLargeError]),
    "Body of a batch, also after decompression": (f"{uploads.MAX_BODY_BYTES // MIB} MiB", [errors.BodyTooLargeError]),
    f"Bytes per compressed byte of a body over {codings.FREE_BYTES // MIB} MiB": (
        f"{codings.MAX_RATIO}",
        [errors.BodyTooLargeError],
    ),
    "JSON in a `/v2` body": (f"{tensors.MAX_JSON_BYTES // MIB} MiB", [errors.BodyTooLargeError]),
    "Values in that JSON besides the numbers of tensors": (f"{tensors.MAX_JSON_VALUES:,}", [errors.BodyTooLargeError]),
    "Files in a batch; parts of a multipart body": (
        f"{uploads.MAX_IMAGES:,}; {uploads.MAX_PARTS:,}",
        [errors.BodyTooLargeError],
    ),
    "Packed crops in a batch": (f"{packed.MAX_CROPS:,}", [errors.BodyTooLargeError]),
    "Columns and entries of metadata in an Arrow schema": (
        f"{arrow_messages.MAX_COLUMNS:,}",
        [errors.BodyTooLargeError],
    ),
    "Image side in pixels": (
        f"{images.MIN_SIDE} to {images.MAX_SIDE:,}",
        [errors.ImageTooSmallError, errors.ImageTooLargeError],
    ),
    "Photos to choose the best of": (f"{uploads.MAX_PHOTOS}", [errors.BodyTooLargeError]),
    "Streams in a worker": (f"{DEFAULTS.streams:,} (`EYESTATE_STREAMS`)", [errors.OverloadedError]),
    "Message of a stream": (f"{websockets.MAX_MESSAGE_BYTES // MIB} MiB", []),
    "Crops queued in a worker": (f"{DEFAULTS.queue:,} (`EYESTATE_QUEUE`)", [errors.OverloadedError]),
}


def test_every_limit_is_checked() -> None:
    assert set(ROWS) == {*STATED, "Limit"}


@pytest.mark.parametrize("limit", STATED)
def test_limit(limit: str) -> None:
    value, rejections = STATED[limit]
    stated, _, beyond = ROWS[limit].partition(" | ")
    assert stated == value
    assert [int(status) for status in re.findall(r"\b\d{3}\b", beyond)] == [each.status for each in rejections]


@pytest.mark.parametrize(
    "document", ["SECURITY.md", "CONTRIBUTING.md", "docs/release.md", "docs/container.md", "README.md"]
)
def test_links_lead_somewhere(document: str) -> None:
    path = PROJECT / document
    targets = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", path.read_text())
    assert targets
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_are_there(document: str) -> None:
    wanted = set(re.findall(r"make ([a-z0-9-]{3,})", (PROJECT / document).read_text()))
    there = set(re.findall(r"^([a-z0-9-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert wanted <= there


def test_every_ignored_advisory_is_explained() -> None:
    ignored = re.findall(r"--ignore-vuln[ =](\S+)", (PROJECT / "Makefile").read_text())
    assert [advisory for advisory in ignored if advisory not in SECURITY] == []
