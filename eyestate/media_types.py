"""The media types of requests and responses, as the service and its clients write them."""

from __future__ import annotations

from typing import Final

JSON: Final = "application/json"
NPY: Final = "application/x-npy"
ARROW: Final = "application/vnd.apache.arrow.stream"
MULTIPART: Final = "multipart/form-data"
OCTET_STREAM: Final = "application/octet-stream"
