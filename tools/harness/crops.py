"""Crops that load tests send, and the models that score them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
import numpy as np
from PIL import Image

from eyestate.arrays import Pixels
from eyestate.bundle import DEFAULT_MODEL, Bundle, CascadeBundle, load_model
from eyestate.errors import BundleError
from eyestate.images import decode, to_input
from tools.harness.servers import PROJECT, SCRATCH
from tools.harness.small_bundle import NAME as SMALL
from tools.harness.small_bundle import write_small_bundle

Command = TypeVar("Command", bound=Callable[..., Any])
SIDE: Final = 24  # pixels; an eye seen from a distance, and the size of the crops the model was made for


def model_option(default: str = DEFAULT_MODEL) -> Callable[[Command], Command]:
    """The option ``--model``, of any bundle that the service takes."""
    text = "Name or path of a bundle; `small` is generated."
    return click.option("--model", default=default, show_default=True, help=text)


def bundle(model: str) -> Bundle | CascadeBundle:
    """A bundle by name or path; ``small`` is generated first.

    Raises:
        BadParameter: the bundle is missing or damaged.
    """
    try:
        return load_model(write_small_bundle(SCRATCH / "models") if model == SMALL else model)
    except BundleError as error:
        raise click.BadParameter(error.message) from None


def networks(model: Bundle | CascadeBundle) -> tuple[Bundle, ...]:
    """The networks of a bundle: a cascade's small and large one, or the one there is."""
    return (model,) if isinstance(model, Bundle) else (model.small, model.large)


def eye(side: int = SIDE) -> Pixels:
    """A real open eye, uint8 (side, side), greyscale."""
    return to_input(decode((PROJECT / "examples" / "open.jpg").read_bytes()), side)


def noisy_eyes(number: int, side: int) -> Pixels:
    """As many crops of that eye with noise of their own, uint8 (number, side, side)."""
    noise = np.random.default_rng(0).integers(0, 32, (number, side, side))
    noisy: Pixels = np.clip(eye(side) + noise, 0, 255).astype(np.uint8)
    return noisy


def jpeg(pixels: Pixels) -> bytes:
    """Greyscale pixels (height, width) encoded as JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()
