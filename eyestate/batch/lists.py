"""Lists of images: text with a path in each line, as editors, shells, PowerShell and Excel write it."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from eyestate.batch.reading import exists, located
from eyestate.errors import InputError
from eyestate.files import LeftOut, is_image

_MARKS: Final = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig"}


def lines(path: Path, left_out: LeftOut) -> Iterator[str]:
    """The paths in a list, without quotes around them; a heading is left out.

    Raises:
        InputError: the list cannot be read.
    """
    try:
        encoding = _encoding(path)
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        with path.open(encoding=encoding, errors=errors) as text:
            heading = True
            for line in text:
                name = _unquoted(line.rstrip("\n"))
                heading = heading and _is_heading(path.parent, name)
                if heading:
                    left_out.headings += bool(name.strip())
                elif name.strip():
                    yield name
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeError:
        raise InputError(f"{path} looks like {encoding}, but is not: save it as UTF-8") from None


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    return "utf-16-le" if len(start) == 4 and start[1] == start[3] == 0 else "utf-8"


def _unquoted(name: str) -> str:
    if len(name) > 1 and name[0] == name[-1] == '"':
        return name[1:-1].replace('""', '"')
    return name


def _is_heading(folder: Path, name: str) -> bool:
    """Whether a line before the first path belongs to a heading, such as ``#TYPE …``, ``FullName`` or ``--------``."""
    return not name.strip() or not (is_image(name.strip()) or exists(located(folder, name)))
