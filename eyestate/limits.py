"""The limits of one bulk request."""

from __future__ import annotations

from typing import Final

MAX_PIXELS: Final = 2**26  # of all encoded images of a request together
# What the clients send at most: as many images as the service accepts, and half the bytes.
REQUEST_IMAGES: Final = 16_384
REQUEST_BYTES: Final = 32 * 2**20
