"""Images as they are read: bytes, or the error that prevented reading them."""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from eyestate.errors import ImageError, ImageTooLargeError, UnavailableFileError, UnreadableFileError
from eyestate.images import MAX_BYTES

# What the path is to blame for; all other errors may pass.
_LASTING: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENXIO}
)


class Image(NamedTuple):
    """An encoded image, or the error that prevented reading it, with its key in the file."""

    key: str
    data: bytes | ImageError


def within_limits(data: bytes) -> bytes | ImageError:
    """The data, or an error if it has more bytes than the service accepts."""
    return data if len(data) <= MAX_BYTES else ImageTooLargeError(f"the image has more than {MAX_BYTES:,} bytes")


def unreadable(what: str, error: Exception) -> ImageError:
    """The error of an image that could not be read from a file, since that is damaged or its disk failed."""
    if isinstance(error, OSError) and error.errno is not None:
        return UnavailableFileError(f"{what} cannot be read: {error.strerror}")
    return UnreadableFileError(f"{what} is damaged: {' '.join(str(error).split()) or type(error).__name__}")


def read_file(path: Path) -> bytes | ImageError:
    """The bytes of an image file, or why there are none."""
    try:
        if not path.is_file():  # not a pipe either, which would block
            return UnreadableFileError(f"there is no file {path}")
        with path.open("rb") as file:
            return within_limits(file.read(MAX_BYTES + 1))
    except ValueError as error:
        return UnreadableFileError(f"there is no file {path!r}: {error}")
    except OSError as error:
        kind = UnreadableFileError if error.errno in _LASTING else UnavailableFileError
        return kind(f"cannot read {path}: {error.strerror}")


def located(folder: Path, name: str) -> Path:
    """The file that a list or a table names, relative to its own folder.

    Where there is none of just that name, it may have been written down on Windows, with backslashes or in its own
    encoding, on macOS, with accents as characters of their own, in a column padded with spaces, or as a URL.
    """
    path = folder / name
    return path if exists(path) else next(filter(exists, _spellings(folder, name)), path)


def _spellings(folder: Path, name: str) -> Iterator[Path]:
    name = name.strip()
    if name.startswith("file:"):
        with suppress(ValueError):  # its host is none
            name = unquote(urlsplit(name).path)
    try:
        name.encode()
    except UnicodeEncodeError:  # its bytes are not UTF-8
        name = os.fsencode(name).decode("cp1252", errors="replace")
    for form in ("NFC", "NFD"):
        for spelt in (name, name.replace("\\", "/")):
            yield folder / unicodedata.normalize(form, spelt)


def exists(path: Path) -> bool:
    """Whether there is something at a path, which may be no path at all."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
