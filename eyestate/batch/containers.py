"""The images inside one file: an archive, or a Parquet file.

A damaged image is a row with an error. A file whose damage hides what follows has one more such row and ends there, so
that what was lost can be told from the output. The rows of a file are the same however often it is read.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Final

from eyestate.batch.archives import tar_images, zip_images
from eyestate.batch.parquet import Columns, count_rows, row_images
from eyestate.batch.reading import Image
from eyestate.errors import InputError, UnavailableFileError
from eyestate.files import PARQUET, LeftOut

ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def count(path: Path, columns: Columns, left_out: LeftOut) -> int:
    """The number of images in a file, without reading them where its format allows.

    Raises:
        InputError: the file cannot be read, or a column is missing.
    """
    try:
        with path.open("rb") as file:
            if path.name.lower().endswith(PARQUET):
                return count_rows(file, path, columns)
            listed = zip_images if path.name.lower().endswith(".zip") else tar_images
            found = 0
            for image in listed(file, path.name, 0, left_out, read=False):
                if isinstance(image.data, UnavailableFileError):
                    raise InputError(f"cannot read {path}: {image.data.message}")
                found += 1
            return found
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def images(path: Path, start: int, columns: Columns) -> Generator[Image, None, None]:
    """The images of a file in its own order, from position ``start``.

    Raises:
        InputError: the file cannot be read, or a column is missing.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    with file:
        if path.name.lower().endswith(PARQUET):
            yield from row_images(file, path, start, columns)
        elif path.name.lower().endswith(".zip"):
            yield from zip_images(file, path.name, start, LeftOut(), read=True)
        else:
            yield from tar_images(file, path.name, start, LeftOut(), read=True)
