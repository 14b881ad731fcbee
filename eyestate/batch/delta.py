"""The files of a Delta table's present version: its folder holds those of earlier versions, too.

https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from eyestate.errors import InputError
from eyestate.extras import extra

with extra("client"):
    import pyarrow as pa
    import pyarrow.parquet as pq

LOG: Final = "_delta_log"

_COMMIT: Final = re.compile(r"(\d{20})\.json")
_CHECKPOINT: Final = re.compile(r"(\d{20})\.checkpoint(\.\d{10}\.(?P<parts>\d{10}))?\.parquet")
_OTHER_CHECKPOINT: Final = re.compile(r"(\d{20})\.checkpoint\..+")


def is_table(folder: Path) -> bool:
    """Whether a folder is a Delta table."""
    return (folder / LOG).is_dir()


def present_files(table: Path) -> list[str]:
    """The Parquet files of the present version, relative to the table's folder, sorted.

    Raises:
        InputError: the log is damaged, or the table uses what this does not read.
    """
    try:
        files: dict[str, None] = {}
        for action in _actions(table / LOG):
            if removed := action.get("remove"):
                files.pop(removed["path"], None)
            if added := action.get("add"):
                if added.get("deletionVector"):
                    raise _unread(table, "it has rows that are marked as deleted")
                files[added["path"]] = None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise _unread(table, f"its log is damaged: {error}") from None
    if elsewhere := next((path for path in files if "://" in path or path.startswith("/")), None):
        raise _unread(table, f"it has files elsewhere, such as {elsewhere}")
    return sorted(map(unquote, files))


def _actions(log: Path) -> Iterator[dict[str, Any]]:
    """What the last checkpoint and the commits after it did, in order."""
    names = sorted(path.name for path in log.iterdir())
    checkpoints: dict[int, list[str]] = {}
    for name in names:
        if match := _CHECKPOINT.fullmatch(name):
            checkpoints.setdefault(int(match[1]), []).append(name)
        elif _OTHER_CHECKPOINT.fullmatch(name):
            raise _unread(log.parent, f"its checkpoint {name} is of a newer form")
    whole = [version for version, parts in checkpoints.items() if len(parts) == _expected(parts[0])]
    last = max(whole, default=-1)
    for name in checkpoints.get(last, ()):
        table = pq.ParquetFile(log / name)
        columns = [column for column in ("add", "remove") if column in table.schema_arrow.names]
        for batch in table.iter_batches(columns=columns):
            yield from batch.to_pylist()
    commits = [name for name in names if (match := _COMMIT.fullmatch(name)) and int(match[1]) > last]
    if [int(name[:20]) for name in commits] != list(range(last + 1, last + 1 + len(commits))) or not (whole or commits):
        raise _unread(log.parent, "commits are missing in its log")
    for name in commits:
        yield from map(json.loads, (log / name).read_text().splitlines())


def _expected(checkpoint: str) -> int:
    match = _CHECKPOINT.fullmatch(checkpoint)
    return int(match["parts"]) if match and match["parts"] else 1


def _unread(table: Path, why: str) -> InputError:
    return InputError(
        f"the Delta table {table} cannot be read: {why}; write its present version to plain Parquet files"
    )
