"""Crops that load tests send, and the models that score them."""

from __future__ import annotations

import io
from typing import Final

import click
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.bundle import Bundle, load_bundle
from eyestate.errors import BundleError
from eyestate.images import decode, to_input
from tools.harness.servers import PROJECT, SCRATCH
from tools.harness.small_bundle import NAME as SMALL
from tools.harness.small_bundle import write_small_bundle

SIDE: Final = 24  # pixels; an eye seen from a distance, and the size of the crops the model was made for


def bundle(model: str) -> Bundle:
    """A bundle by name or path; ``small`` is generated first.

    Raises:
        BadParameter: the bundle is missing or damaged.
    """
    try:
        return load_bundle(write_small_bundle(SCRATCH / "models") if model == SMALL else model)
    except BundleError as error:
        raise click.BadParameter(error.message) from None


def eye(side: int = SIDE) -> Pixels:
    """A real open eye, uint8 (side, side), greyscale."""
    return to_input(decode((PROJECT / "examples" / "open.jpg").read_bytes()), side)


def jpeg(pixels: Pixels) -> bytes:
    """Greyscale pixels (height, width) encoded as JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()
