"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

_UNSUPPORTED: Final = frozenset(
    {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTTY, errno.EBADF}
)
PREFIX: Final = ".draft-"  # of the names of drafts, which lie beside the file


@contextmanager
def atomic_writer(path: Path, *, durable: bool = False, owner: str = "") -> Iterator[BinaryIO]:
    """A draft that takes the place of ``path`` when the block ends, and is deleted if it raises.

    The folder is made if it is missing.

    Args:
        path: the file.
        durable: whether the content and the renaming must be on the disk before this returns.
        owner: part of the draft's name, by which drafts of a killed writer can be found.

    Raises:
        OSError: the draft cannot be written or renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{PREFIX}{owner}-{uuid.uuid4().hex}")
    try:
        with draft.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    if durable:
        _sync(path.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file in one piece; text as UTF-8, file names that are not UTF-8 as they are."""
    with atomic_writer(path) as file:
        file.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)


def _sync(folder: Path) -> None:
    """Bring a renaming to the disk, where the file system can do that for a folder: CIFS and some of FUSE cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
