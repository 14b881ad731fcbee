"""The files in which worker processes count, so that one of them can show what all have counted.

There is one set of files for each place of a worker, not for each process: a worker that takes the place of another
goes on counting where that one ended. Prometheus' client maps the files into memory, where a full disk is a bus error
instead of an exception, so their space is reserved before the first worker starts.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from pathlib import Path
from typing import Final

from eyestate.errors import SettingError

GAUGES: Final = ("gauge_livesum", "gauge_livemax")
KINDS: Final = ("counter", "histogram", *GAUGES)
FILE_BYTES: Final = 2**18  # twice what all metrics with all their labels fill


def claim(home: Path, workers: int) -> Path:
    """An empty folder of metrics that no other service uses, with room for all workers.

    Args:
        home: where it is made.
        workers: places for workers, numbered from 1.

    Raises:
        SettingError: it cannot be made, or there is no room for it.
    """
    try:
        folder = _own_folder(home)
        for file in folder.iterdir():
            file.unlink()
        for kind, place in itertools.product(KINDS, range(1, workers + 1)):
            with path(folder, kind, place).open("wb") as reserved:
                os.posix_fallocate(reserved.fileno(), 0, FILE_BYTES)
    except OSError as error:
        needed = workers * len(KINDS) * FILE_BYTES // 2**10
        raise SettingError(f"BENTOML_HOME: the metrics need {needed:,} KiB in {home}: {error.strerror}") from None
    return folder


def path(folder: Path, kind: str, place: int) -> Path:
    """The file of a place for one kind of metrics, as Prometheus' client names it."""
    return folder / f"{kind}_{place}.db"


def forget_gauges(folder: Path, place: int) -> None:
    """Drop the present state of a worker that has ended; what it counted stays."""
    for kind in GAUGES:
        with path(folder, kind, place).open("r+b") as file:
            file.write(bytes(8))  # the bytes in use


def _own_folder(home: Path) -> Path:
    for number in itertools.count(1):
        folder = home / ("prometheus_multiproc_dir" if number == 1 else f"prometheus_multiproc_dir-{number}")
        folder.mkdir(parents=True, exist_ok=True)
        if _locked(folder):
            return folder
    raise AssertionError


def _locked(folder: Path) -> bool:
    """Lock a folder until this process and its children end, unless another service has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:
        pass  # a file system without locks
    return True
