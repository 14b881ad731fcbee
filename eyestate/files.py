"""Which files of a folder or an archive are data: one rule for commands, batch jobs and training.

Hidden files, and what operating systems, file servers and table formats keep beside the data, are left out, as are
files of other kinds. What was left out is counted.
"""

from __future__ import annotations

import errno
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from eyestate.errors import InputError
from eyestate.images import SUFFIXES

PARQUET: Final = ".parquet"

_SYSTEM: Final = frozenset(
    {
        "__macosx",  # the Finder's archives
        "network trash folder", "temporary items", "thevolumesettingsfolder",  # its file servers
        "@eadir", "@tmp", "#recycle", "#snapshot",  # Synology
        "@recycle", "@recently-snapshot", "@__thumb",  # QNAP
        "~snapshot",  # NetApp
        "$recycle.bin", "recycler", "system volume information", "thumbs.db", "desktop.ini",  # Windows
        "lost+found",  # ext4
        "_temporary", "_spark_metadata", "_success",  # Spark
        "_delta_log", "_change_data",  # Delta Lake
    }
)  # fmt: skip
_HIDDEN: Final = (".", "~$")  # beginnings of names, of which Office gives the latter to its locks
_UTF8_NAME: Final = 0x800  # APPNOTE 4.4.4, bit 11
_SHOWN_SUFFIXES: Final = 5


@dataclass
class LeftOut:
    """What was left out of the data, by the reason."""

    hidden: int = 0
    links: int = 0
    devices: int = 0  # and pipes and sockets
    headings: int = 0  # lines of a list
    others: Counter[str] = field(default_factory=Counter)  # by suffix

    def __bool__(self) -> bool:
        return bool(self.hidden or self.links or self.devices or self.headings or self.others)

    def __str__(self) -> str:
        suffixes = [suffix or "no suffix" for suffix, _ in self.others.most_common(_SHOWN_SUFFIXES)]
        more = ", …" if len(self.others) > _SHOWN_SUFFIXES else ""
        kinds = {
            "hidden or of the system": f"{self.hidden:,}" if self.hidden else "",
            "links that lead back or nowhere": f"{self.links:,}" if self.links else "",
            "pipes, sockets and devices": f"{self.devices:,}" if self.devices else "",
            "lines of a heading": f"{self.headings}" if self.headings else "",
            "other files": f"{self.others.total():,} ({', '.join(suffixes)}{more})" if self.others else "",
        }
        return "left out: " + "; ".join(f"{kind}: {told}" for kind, told in kinds.items() if told)

    def unless_image(self, name: str) -> bool:
        """Whether a member of an archive, its folders divided by slashes, is an image; anything else is counted."""
        if is_hidden(name):
            self.hidden += 1
        elif not is_image(name):
            self.others[_suffix(name)] += 1
        else:
            return True
        return False


def is_image(name: str) -> bool:
    """Whether the name has the suffix of an image."""
    return _suffix(name) in SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a file or folder, named relative to the input with slashes, is hidden or kept by a system for itself.

    Of Parquet, names that begin with an underscore are hidden, too, unless they are those of a partition, as Spark,
    Hive and Arrow have it. Cameras give such names to images.
    """
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if any(part.startswith(_HIDDEN) or part.lower() in _SYSTEM for part in parts):
        return True
    return name.lower().endswith(PARQUET) and any(part.startswith("_") and "=" not in part for part in parts)


class _Level(NamedTuple):
    """A folder on the way to those below it."""

    prefix: str
    identity: tuple[int, int]
    entries: Iterator[os.DirEntry[str]]


def walk(folder: Path, wanted: Callable[[str], bool], left_out: LeftOut) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The wanted files of a folder and of those in it, under their names relative to it, in each folder sorted by name.

    Links to folders are followed unless they lead back to a folder on the way.

    Args:
        folder: where to begin.
        wanted: decides by a file's name whether it is data.
        left_out: counts the other files.

    Raises:
        InputError: a folder cannot be read.
    """
    levels = [_level(folder, "", folder)]
    while levels:
        entry = next(levels[-1].entries, None)
        if entry is None:
            levels.pop()
            continue
        name = levels[-1].prefix + entry.name
        if is_hidden(name):
            left_out.hidden += 1
        elif _leads_nowhere(entry):
            left_out.links += 1
        elif entry.is_dir():
            level = _level(folder, f"{name}/", entry)
            if any(level.identity == above.identity for above in levels):
                left_out.links += 1
            else:
                levels.append(level)
        elif not wanted(name):
            left_out.others[_suffix(name)] += 1
        elif entry.is_file():
            yield name, entry
        else:
            left_out.devices += 1


def image_files(paths: Iterable[Path], left_out: LeftOut) -> list[Path]:
    """The files among paths as they are, and the images of the folders among them.

    Raises:
        InputError: a folder cannot be read.
    """
    files: list[Path] = []
    for path in paths:
        files += [path / name for name, _ in walk(path, is_image, left_out)] if path.is_dir() else [path]
    return files


def zip_members(archive: zipfile.ZipFile) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """The files in a zip archive under their names.

    Windows may have divided folders by backslashes, and macOS does not say that its names are UTF-8.
    """
    for member in archive.infolist():
        name = member.filename
        if not member.flag_bits & _UTF8_NAME:
            with suppress(UnicodeError):
                name = name.encode("cp437").decode()
        name = name.replace("\\", "/")
        if not name.endswith("/"):
            yield name, member


def _level(root: Path, prefix: str, folder: Path | os.DirEntry[str]) -> _Level:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        stat = folder.stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{root} has folders nested so deeply that their paths are too long to open") from None
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from None
    return _Level(prefix, (stat.st_dev, stat.st_ino), iter(found))


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    if not entry.is_symlink():
        return False
    try:
        entry.stat()
    except OSError:
        return True
    return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  # a path for each name would be slow
